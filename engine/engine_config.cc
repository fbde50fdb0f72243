#include "engine/engine_config.h"

#include <algorithm>

#include "kernels/base/check.h"
#include "kernels/page_format.h"

namespace thermocline {
namespace {

Status CheckRange(std::string_view option, int64_t value, int64_t min, int64_t max) {
  if (value < min || value > max) {
    return InvalidArgument("{} is {}, but must be from {} to {}", option, value, min, max);
  }
  return {};
}

double MiB(uint64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

}  // namespace

Status ValidateEngineConfig(const EngineConfig& config) {
  RETURN_IF_ERROR(CheckRange("--max-num-seqs", config.max_num_seqs, 1, 4096));
  RETURN_IF_ERROR(CheckRange("--max-num-batched-tokens", config.max_num_batched_tokens, 1, 65536));
  RETURN_IF_ERROR(CheckRange("--max-num-prefill-tokens-while-decoding",
                             config.max_num_prefill_tokens_while_decoding, 0, 65536));
  RETURN_IF_ERROR(CheckRange("--max-num-queued-reqs", config.max_num_queued_reqs, 0, 1 << 20));
  RETURN_IF_ERROR(CheckRange("--threads", config.num_threads, 0, 1024));
  if (config.kv_budget < 0 || config.kv_budget > 1) {
    return InvalidArgument("--kv-budget is {}, but must be from 0 (no budget) to 1",
                           config.kv_budget);
  }
  CHECK(!config.baseline.has_value() || config.kv_policy == KvPolicy::kHot);
  if (config.baseline.has_value() && config.kv_budget == 0) {
    return InvalidArgument(
        "--kv-budget is 0, but --kv-policy streaming, h2o and snapkv need one: what part of the "
        "tokens to keep, above 0 and at most 1");
  }
  if (HasKvStore(config) && (config.baseline.has_value() || !config.enable_prefix_caching)) {
    return InvalidArgument(
        "--kv-store-dir and --kv-store-memory-bytes keep pages of the prefix cache: they need one, "
        "and a --kv-policy that evicts no tokens");
  }
  if (config.block_size != 64) {
    return InvalidArgument("--block-size is {}, but only 64 is supported", config.block_size);
  }
  if (config.max_num_batched_tokens < config.max_num_seqs) {
    return InvalidArgument(
        "--max-num-batched-tokens is {}, less than --max-num-seqs {}: a step must have a token for "
        "every running sequence",
        config.max_num_batched_tokens, config.max_num_seqs);
  }
  return {};
}

Result<int> ResolveMaxModelLen(const EngineConfig& config, int context_length) {
  if (!config.max_model_len) {
    return context_length;
  }
  constexpr int kMinModelLen = 2;  // a prompt of one token, and one of output
  if (*config.max_model_len < kMinModelLen) {
    return InvalidArgument("--max-model-len is {}, but must be at least {}", *config.max_model_len,
                           kMinModelLen);
  }
  if (*config.max_model_len > context_length) {
    return InvalidArgument("--max-model-len is {}, more than the model's context length of {}",
                           *config.max_model_len, context_length);
  }
  return *config.max_model_len;
}

Result<uint64_t> ResolveKvBytes(const EngineConfig& config, const KvMemory& memory) {
  const auto page_tokens = static_cast<uint64_t>(config.block_size);
  const uint64_t pages_of_one =
      (static_cast<uint64_t>(memory.max_model_len) + page_tokens - 1) / page_tokens;
  const uint64_t bytes_of_one = pages_of_one * memory.page_bytes;
  const bool is_automatic = !config.kv_cache_memory_bytes.has_value();
  uint64_t bytes = 0;
  if (is_automatic) {
    const uint64_t wanted = bytes_of_one * static_cast<uint64_t>(config.max_num_seqs);
    bytes =
        memory.available_bytes == 0 ? bytes_of_one : std::min(wanted, memory.available_bytes / 2);
  } else {
    bytes = *config.kv_cache_memory_bytes;
  }
  bytes = std::min(bytes, uint64_t{kMaxArenaUnits} * kArenaUnitBytes);
  const uint64_t num_pages = bytes / memory.page_bytes;
  if (num_pages < pages_of_one) {
    return InvalidArgument(
        "the KV cache has {:.1f} MiB ({}), which hold {} tokens; one sequence of --max-model-len "
        "{} "
        "needs {:.1f} MiB: lower --max-model-len to at most {} or set --kv-cache-memory-bytes to "
        "at "
        "least {}",
        MiB(bytes), is_automatic ? "half of the available memory" : "--kv-cache-memory-bytes",
        num_pages * page_tokens, memory.max_model_len, MiB(bytes_of_one), num_pages * page_tokens,
        bytes_of_one);
  }
  return num_pages * memory.page_bytes;
}

}  // namespace thermocline
