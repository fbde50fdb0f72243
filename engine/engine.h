#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/engine_config.h"
#include "engine/kv_sessions.h"
#include "engine/runner.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"
#include "kernels/base/status.h"
#include "scheduler/request.h"
#include "scheduler/tier_controller.h"

namespace thermocline {

// What one or more accepted tokens add to one choice. Text is whole UTF-8 characters only, and
// never holds the start of what may yet become a stop string.
struct OutputDelta {
  int choice = 0;
  std::string text;
  std::vector<TokenId> token_ids;
  std::vector<TokenLogprobs> logprobs;  // as token_ids, when asked for
  // As logprobs: where each token begins in the choice's own text, in code points. May lie behind
  // the text that was given so far, and behind its end where a stop string was cut off.
  std::vector<size_t> text_offsets;
  // Of prompt tokens 1.., in order, when asked for: once, in the first delta of choice 0, which is
  // the request's first.
  std::vector<TokenLogprobs> prompt_logprobs;
  std::optional<FinishReason> finish_reason;  // in the last delta of a choice
  std::string stop_reason;                    // the stop string or token id that ended it, if any
};

// Receives one request's output. Called on the engine thread; posts and returns, never blocks.
// After OnDone nothing more is called and the sink is destroyed.
class OutputSink {
 public:
  virtual ~OutputSink() = default;
  virtual void OnDelta(OutputDelta delta) = 0;
  // Once, last. Not ok: the request failed or was cancelled (kCancelled).
  virtual void OnDone(const Status& status, const Usage& usage) = 0;
};

// Which formats cold pages have, and how far the measuring of better ones is.
enum class CalibrationState : uint8_t {
  kNotNeeded,   // no page cools
  kOff,         // SafeKvFormats are in force and stay so
  kMeasuring,   // SafeKvFormats are in force
  kSwitching,   // measured; they are still in force
  kFailed,      // they stay so
  kCalibrated,  // the model's own are
};

// A consistent picture of the engine, taken after each step.
struct EngineStats {
  int num_running = 0;
  int num_waiting = 0;
  uint64_t num_pages = 0;         // in the arena
  uint64_t num_free_pages = 0;    // hot ones that fit beside all pages, the moves' reserve included
  uint64_t num_cached_pages = 0;  // held by the prefix cache alone: evictable
  uint64_t num_preemptions = 0;
  uint64_t num_steps = 0;
  uint64_t prompt_tokens = 0;
  uint64_t generated_tokens = 0;
  uint64_t prefix_query_tokens = 0;
  uint64_t prefix_hit_tokens = 0;
  uint64_t restored_tokens = 0;  // of these, whose pages came from the store outside the arena
  uint64_t num_woken = 0;        // archived pages that got their exact bytes back from it
  uint64_t num_unwoken = 0;      // times that an archived page could not
  std::array<uint64_t, kNumTiers> tier_pages{};  // pages in use or cached
  std::array<uint64_t, kNumTiers> tier_bytes{};
  std::array<uint64_t, kNumTiers> tier_page_bytes{};  // of one page; 0: the tier is not to be had
  uint64_t arena_bytes = 0;
  uint64_t arena_free_bytes = 0;  // in no page's place
  uint64_t num_superblocks = 0;   // see Arena
  uint64_t num_empty_superblocks = 0;
  uint64_t num_moving = 0;  // pages
  double move_seconds = 0;  // that copying pages has taken
  double step_seconds = 0;  // that steps have taken
  TierStats tiers;
  CalibrationState calibration = CalibrationState::kNotNeeded;
  double calibration_fraction = 0;  // in [0, 1]: how far measuring is
  double cold_kl = 0;               // of calibrated formats, before a budget widens them; else 0
  bool has_store = false;
  BackingStore::Usage store;  // of pages outside the arena
};

// Where the memory goes; printed at start.
struct MemoryBudget {
  uint64_t weight_bytes = 0;
  uint64_t kv_arena_bytes = 0;
  uint64_t page_bytes = 0;
  uint64_t num_kv_tokens = 0;  // that the arena holds, all hot
  int max_model_len = 0;
  uint64_t cold_page_bytes = 0;
  double cold_kl = 0;  // Calibration's, before a budget widens pages; 0: not measured yet
};

struct EngineParts;
struct KvSnapshot;  // engine/kv_snapshot.h

// Called on the engine thread; posts and returns. Shared by all who asked during one step.
using KvCallback = std::function<void(std::shared_ptr<const KvSnapshot>)>;

// Owns the scheduler, the runner and the one engine thread. Thread-safe.
class Engine {
 public:
  // Loads the model; minutes for a large one. kInvalidArgument with one clear line for a bad file.
  static Result<std::unique_ptr<Engine>> Create(const EngineConfig& config);
  // From parts made elsewhere: tests put a fake runner among them.
  static std::unique_ptr<Engine> FromParts(EngineParts parts);
  // Cancels what runs, then joins the engine thread.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // The request's id; use it to cancel. kInvalidArgument when it can never fit, kResourceExhausted
  // when the queue is full, kUnavailable after StopAccepting or once the device has failed. On an
  // error the sink is never called.
  Result<RequestId> Submit(Request request, std::unique_ptr<OutputSink> sink);
  // Within one step, at any phase; the sink gets OnDone(kCancelled). Unknown ids are ignored.
  void Cancel(RequestId id);

  // Graceful stop: new requests are refused, running ones go on.
  void StopAccepting();
  bool idle() const;     // nothing runs, nothing waits
  bool healthy() const;  // false once the device has failed
  EngineStats stats() const;
  // `callback` gets the pages as they are after the step that runs, or now if none does.
  void QueryKv(KvCallback callback);

  // The conversations that clients have named (Request::session_id), kept beyond idleness and
  // restart. Save keeps the tokens and full pages of its latest request; Restore brings the pages
  // back into the arena, so that the next request that begins alike starts at once. Errors, to the
  // callback: kUnimplemented where pages are not kept (EngineConfig::kv_store_dir), kNotFound,
  // kInvalidArgument for an id that ValidSessionId refuses, what the store says.
  void SaveSession(std::string tenant, std::string id, SessionCallback callback);
  void RestoreSession(const std::string& tenant, const std::string& id,
                      const SessionCallback& callback);
  void DeleteSession(std::string tenant, std::string id, SessionCallback callback);
  void ListSessions(const std::string& tenant, const SessionListCallback& callback);

  // Most requests that can be there at once, running and waiting.
  int max_requests() const;
  const MemoryBudget& budget() const;
  const Tokenizer& tokenizer() const;
  const ChatTemplate& chat_template() const;

 private:
  class Loop;
  explicit Engine(std::unique_ptr<Loop> loop);

  std::unique_ptr<Loop> loop_;
};

}  // namespace thermocline
