#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "engine/baselines/baseline.h"
#include "kernels/base/status.h"
#include "kernels/cpu/isa/isa_level.h"
#include "scheduler/tier_policy.h"

namespace thermocline {

// What `thermocline serve` and `thermocline chat` are started with, as vLLM spells it.
struct EngineConfig {
  std::string model_path;                          // a GGUF file
  std::optional<int> max_model_len;                // nothing: the model's own context length
  int max_num_seqs = 64;                           // sequences that run at once
  int max_num_batched_tokens = 512;                // tokens per step
  int max_num_prefill_tokens_while_decoding = 32;  // see SchedulerConfig; 0: no such bound
  int max_num_queued_reqs = 256;                   // waiting requests; more is an error
  std::optional<uint64_t> kv_cache_memory_bytes;   // nothing: see ResolveKvBytes
  int block_size = 64;                             // tokens per page; only 64
  bool enable_prefix_caching = true;
  KvPolicy kv_policy = KvPolicy::kAdaptive;        // kHot beside a baseline
  std::optional<Baseline> baseline;                // to compare with: evicts tokens, see Evictor
  KvFidelity kv_fidelity = KvFidelity::kBalanced;  // for requests that do not say
  double kv_budget = 0;  // see TierConfig::budget; of a baseline, NumKeptTokens
  // Where pages that left the arena are kept, and outlive the process; empty: in memory alone. With
  // neither directory nor memory they are not kept.
  std::string kv_store_dir;
  std::optional<uint64_t> kv_store_memory_bytes;     // nothing: KvStoreMemoryBytes
  uint64_t kv_store_disk_bytes = uint64_t{8} << 30;  // files in the directory
  int num_threads = 0;                               // 0: the cores this process may use
  std::optional<IsaLevel> cpu_isa;                   // for the kernels; nothing: the CPU's best
  std::string calibration_dir;                       // where calibrations are kept; empty: nowhere
  bool calibrate = true;                             // while idle, unless a calibration is kept
  bool calibrate_every_layer = false;  // see Calibrator; a kept one without that is not enough
  bool calibrate_afresh = false;       // whatever is kept
  std::string chat_template;           // Jinja source; empty: the model's own

  // Called on the engine thread when calibration has ended, with what it comes to in a line; posts
  // and returns. Not ok: why the formats that are safe for any model stay. Empty: nobody asks.
  std::function<void(const Status& status, const std::string& summary)> on_calibrated;
  // Called on the loading thread with a phase's name and a fraction in [0, 1].
  std::function<void(std::string_view phase, double fraction)> on_progress;
  // Called with what the operator should read in the log, whatever the answers say: on the loading
  // thread, and later on threads of the engine's.
  std::function<void(const std::string& message)> on_notice;
};

inline bool HasKvStore(const EngineConfig& config) {
  return !config.kv_store_dir.empty() || config.kv_store_memory_bytes.value_or(0) > 0;
}
// Memory of the store: what config says, or else 256 MiB where there is a directory.
inline uint64_t KvStoreMemoryBytes(const EngineConfig& config) {
  return config.kv_store_memory_bytes.value_or(config.kv_store_dir.empty() ? 0
                                                                           : uint64_t{256} << 20);
}

// Whether the values make sense, whatever the model. kInvalidArgument names the option.
Status ValidateEngineConfig(const EngineConfig& config);

// The longest sequence: config's, or the model's context length. kInvalidArgument when config asks
// for more than that.
Result<int> ResolveMaxModelLen(const EngineConfig& config, int context_length);

// What one page and one sequence take, and what there is.
struct KvMemory {
  uint64_t page_bytes = 0;
  int max_model_len = 0;
  uint64_t available_bytes = 0;  // Device::AvailableBytes; 0: not known
};

// Bytes of the KV arena, whole pages: what config says, or else what max_num_seqs sequences of
// max_model_len need but at most half of the available memory. kInvalidArgument, with the numbers,
// when that does not hold one sequence of max_model_len.
Result<uint64_t> ResolveKvBytes(const EngineConfig& config, const KvMemory& memory);

}  // namespace thermocline
