#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <stop_token>
#include <thread>
#include <variant>
#include <vector>

#include "engine/calibration_schedule.h"
#include "engine/engine_core.h"
#include "engine/engine_parts.h"
#include "engine/engine_stats.h"
#include "engine/inference_service.h"
#include "kernels/base/status.h"
#include "scheduler/request.h"

namespace thermocline {

// The queue in front of an EngineCore and the engine thread, which empties it and runs steps while
// there is something to run. Thread-safe; Engine's contracts hold for the calls of the same names.
class EngineLoop {
 public:
  // Runs on the engine thread, between two steps.
  using Task = std::function<void(EngineCore&)>;

  // `parts` outlives it.
  explicit EngineLoop(EngineParts& parts);
  ~EngineLoop() { Stop(); }
  EngineLoop(const EngineLoop&) = delete;
  EngineLoop& operator=(const EngineLoop&) = delete;
  // Cancels what runs, then joins the engine thread. For the owner's thread; once is enough.
  void Stop();

  Result<RequestId> Submit(Request request, std::unique_ptr<OutputSink> sink);
  void Cancel(RequestId id);
  void QueryKv(KvCallback callback);
  // False: the engine thread takes nothing any more, and `task` does not run.
  [[nodiscard]] bool Post(Task task);

  void StopAccepting();
  bool idle() const;
  bool healthy() const;
  EngineStats stats() const;

 private:
  struct Submission {
    std::shared_ptr<const Request> request;  // shared: see Request
    std::unique_ptr<OutputSink> sink;
  };
  using Command = std::variant<Submission, RequestId, KvCallback, Task>;  // RequestId: cancel

  Status CheckPrompt(const Request& request) const;
  void Push(Command command);
  void Wake();

  // On the engine thread:
  void Run(const std::stop_token& stop);
  // Waits for something to do; false when the engine is to stop.
  bool TakeCommands(const std::stop_token& stop);
  void Turn();
  Status ObeyAndStep(bool& had_work);
  void ObeyCommands();
  void PublishAndDeliver();
  void CountStartable();
  void AnswerKvQueries();
  void Calibrate(bool had_work);
  EngineStats TakeStats() const;

  EngineParts& parts_;
  // The engine thread's alone, down to kv_callbacks_:
  EngineCore core_;
  CalibrationSchedule calibration_;
  std::deque<Command> taken_;
  std::vector<KvCallback> kv_callbacks_;

  mutable std::mutex mutex_;
  // Guarded by mutex_, down to stats_:
  std::deque<Command> commands_;
  RequestId next_id_ = 1;
  int num_queued_ = 0;  // submitted and not yet admitted
  // Sequences that are free for whoever is submitted next.
  int num_startable_;
  int num_starting_ = 0;          // queued requests that have found a free sequence
  int num_starting_choices_ = 0;  // their choices, each of which takes one
  int num_open_ = 0;              // submitted and not yet told that they ended
  bool accepting_ = true;
  bool ended_ = false;  // the engine thread takes no more commands
  bool healthy_ = true;
  EngineStats stats_;
  std::condition_variable_any wake_;

  std::jthread thread_;  // last: it uses all of the above
};

}  // namespace thermocline
