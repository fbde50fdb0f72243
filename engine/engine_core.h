#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine_stats.h"
#include "engine/kv/page_io.h"
#include "engine/kv/session_table.h"
#include "engine/kv_snapshot.h"
#include "engine/output.h"
#include "engine/output_sink.h"
#include "engine/runner.h"
#include "engine/text/tokenizer.h"
#include "kernels/base/status.h"
#include "scheduler/page_pool.h"
#include "scheduler/scheduler.h"

namespace thermocline {

// What the engine thread runs: requests in, steps, output out. Knows no threads, so a test drives
// it step by step. Engine puts a thread and a queue around it.
//
// Output is collected by Step and the like and handed out by Deliver, so that whoever is told that
// a request has ended finds stats() that already agree.
class EngineCore {
 public:
  // All outlive it. `io`: between the arena and the store outside it; null: there is none.
  EngineCore(const SchedulerConfig& config, PagePool& pool, Runner& runner,
             const Tokenizer& tokenizer, PageIo* io = nullptr);

  // What the scheduler refuses ends with its error.
  void Add(const std::shared_ptr<const Request>& request, std::unique_ptr<OutputSink> sink);
  void Cancel(RequestId id);  // unknown ids are ignored
  // Schedules and runs one step. An error is of the device; FailAll is what is left to do.
  Status Step();
  void FailAll(const Status& status);
  void Deliver();

  // What the last Step took; 0 if it ran nothing.
  double last_step_seconds() const { return last_step_seconds_; }
  // Whether SwitchFormats costs no request anything: nothing moves, and nobody reads a page whose
  // bytes it takes.
  bool CanSwitchFormats() const {
    return pool_.num_moving() == 0 && pool_.num_transferring() == 0 &&
           !scheduler_.ReadsCodedPages();
  }
  // Between steps: what pages take from now on, by tier, and `apply`, called once all pages are
  // hot, which gives the new formats to those who copy and read them. What read others is computed
  // again.
  void SwitchFormats(const std::array<uint32_t, kNumTiers>& page_bytes,
                     const std::function<void()>& apply);

  // False while nothing runs and nothing can: until the next Add or Cancel, or until a transfer
  // ends, Step would do nothing.
  bool has_work() const {
    return can_run() || pool_.num_moving() > 0 ||
           (io_ != nullptr && (io_->has_finished() || scheduler_.has_transfers_to_take()));
  }
  // The conversation of this name: the tokens of its latest request that ended well. Null: there
  // has been none since the start, or it is long ago.
  const std::vector<TokenId>* FindSession(const std::string& tenant, const std::string& id) const {
    return sessions_.Find(tenant, id);
  }
  // Starts saving the full pages that tokens begin with; the names of those that are to be had.
  // Needs a store.
  std::vector<ContentHash> SavePrefix(const std::string& tenant, std::span<const TokenId> tokens);
  // Waits until every cached page has been saved, as far as the store takes it; without a store
  // nothing happens. For when nothing runs any more.
  void SaveCachedPages();
  // All but how far a calibration is.
  EngineStats stats() const;
  // Beside these stats(), the KV cache page by page.
  KvSnapshot TakeSnapshot() const;
  Scheduler& scheduler() { return scheduler_; }
  const Scheduler& scheduler() const { return scheduler_; }
  // How many requests have left the waiting queue for the first time (to run, or ended) since the
  // last call.
  int TakeNumAdmitted() { return std::exchange(num_admitted_, 0); }
  // How many requests Deliver has told that they ended, since the last call.
  int TakeNumDone() { return std::exchange(num_done_, 0); }

 private:
  struct ActiveRequest {
    std::shared_ptr<const Request> request;  // shared: see Request
    std::unique_ptr<OutputSink> sink;
    std::vector<ChoiceOutput> choices;
    std::vector<TokenLogprobs> prompt_logprobs;  // from the second token on, as far as computed
    int num_cached = 0;                          // prompt tokens of the first choice
    int num_restored = 0;                        // those of num_cached that were restored
    std::vector<TokenId> session_tokens;         // choice 0's, once it has ended
    std::array<int, kNumTiers> tier_tokens{};    // summed over choices that have ended
    uint64_t kv_bytes_held = 0;                  // summed in the same way
    bool reused_lossy = false;
    bool admitted = false;
    std::vector<OutputDelta> deltas;  // not yet delivered
  };
  using ActiveRequests = std::map<RequestId, ActiveRequest>;  // in order of arrival
  struct EndedRequest {
    ActiveRequest active;
    Status status;
  };
  struct EndedChoice {
    RequestId id;
    const Sequence* sequence;  // the scheduler's, until Finish
    size_t index;              // in the step's plan
  };

  bool can_run() const { return scheduler_.has_work() && !stalled_; }
  void StartTransfers();
  void EndTransfers(bool wait);
  bool EndPrefetched();  // whether there were any
  // Starts the moves that the scheduler proposes, and waits for those that the next step needs.
  void MovePages();
  // Tells the scheduler of copies that have ended. What they take keeps those in the background
  // under a twentieth of the time.
  void EndMoves(bool wait);
  // What a choice that ends held.
  void NoteHeld(ActiveRequest& active, const EndedChoice& ended, const RunResult& run);
  void NoteAdmitted(ActiveRequest& active, const Sequence& sequence);
  void AddPromptLogprobs(ActiveRequest& active, const Sequence& sequence,
                         std::vector<TokenLogprobs> logprobs);
  // One sequence's share of a step's result. True when that ends the choice.
  bool AddOutput(ActiveRequest& active, const Sequence& sequence, size_t index, RunResult& result);
  // Drops a request from the scheduler (the pages are free at once) and queues its OnDone.
  void End(ActiveRequests::iterator it, Status status);
  ArenaStats TakeArenaStats() const;

  PagePool& pool_;
  Runner& runner_;
  const Tokenizer& tokenizer_;
  PageIo* io_;
  int max_model_len_;
  Scheduler scheduler_;
  ActiveRequests active_;
  SessionTable sessions_;
  std::vector<EndedRequest> ended_;  // not yet delivered
  bool stalled_ = false;
  int num_admitted_ = 0;
  int num_done_ = 0;
  double last_step_seconds_ = 0;
  double step_seconds_ = 0;  // moving averages
  double seconds_per_move_ = 0;
  double move_seconds_seen_ = 0;  // the runner's, as far as the average has them
  StepStats steps_;
};

}  // namespace thermocline
