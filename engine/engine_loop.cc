#include "engine/engine_loop.h"

#include <algorithm>
#include <iterator>
#include <new>
#include <utility>

#include "engine/kv_snapshot.h"

namespace thermocline {

EngineLoop::EngineLoop(EngineParts& parts)
    : parts_(parts),
      core_(parts.scheduler, *parts.pool, *parts.runner, *parts.tokenizer, parts.page_io.get()),
      calibration_(parts),
      num_startable_(parts.scheduler.max_num_seqs),
      stats_(TakeStats()),
      thread_([this](const std::stop_token& stop) { Run(stop); }) {
  if (parts_.page_io != nullptr) {
    parts_.page_io->set_on_end([this] { Wake(); });
  }
}

void EngineLoop::Stop() {
  if (thread_.joinable()) {
    thread_.request_stop();
    wake_.notify_all();
    thread_.join();
  }
}

Status EngineLoop::CheckPrompt(const Request& request) const {
  const auto num_prompt = static_cast<int>(request.prompt.size());
  const int max_model_len = parts_.scheduler.max_model_len;
  if (num_prompt == 0) {
    return InvalidArgument("the prompt has no tokens");
  }
  const bool generates = !request.prefetch_only && request.stop.max_tokens > 0;
  if (num_prompt > max_model_len || (num_prompt == max_model_len && generates)) {
    return InvalidArgument(
        "the prompt has {} tokens, but the model's context is {} tokens, one of them for output",
        num_prompt, max_model_len);
  }
  return {};
}

Result<RequestId> EngineLoop::Submit(Request request, std::unique_ptr<OutputSink> sink) {
  RETURN_IF_ERROR(CheckPrompt(request));
  const std::lock_guard lock(mutex_);
  if (!accepting_ || !healthy_) {
    return Unavailable("the engine {}", healthy_ ? "is shutting down" : "has failed");
  }
  // Who finds a free sequence does not wait, though the engine's thread has yet to see it.
  if (num_starting_choices_ < num_startable_) {
    num_starting_choices_ += request.num_choices;
    ++num_starting_;
  } else if (num_queued_ - num_starting_ >= parts_.scheduler.max_num_queued_reqs) {
    return ResourceExhausted("{} requests are waiting already", num_queued_ - num_starting_);
  }
  request.id = next_id_++;
  if (!request.sampling.seed.has_value()) {
    request.sampling.seed = parts_.draw_seed();
  }
  const RequestId id = request.id;
  ++num_queued_;
  ++num_open_;
  Push(Submission{std::make_shared<const Request>(std::move(request)), std::move(sink)});
  return id;
}

void EngineLoop::Cancel(RequestId id) {
  const std::lock_guard lock(mutex_);
  Push(id);
}

void EngineLoop::QueryKv(KvCallback callback) {
  const std::lock_guard lock(mutex_);
  Push(std::move(callback));
}

bool EngineLoop::Post(Task task) {
  const std::lock_guard lock(mutex_);
  if (ended_) {
    return false;
  }
  Push(std::move(task));
  return true;
}

// Under mutex_.
void EngineLoop::Push(Command command) {
  commands_.push_back(std::move(command));
  wake_.notify_one();
}

void EngineLoop::Wake() {
  const std::lock_guard lock(mutex_);
  wake_.notify_one();
}

void EngineLoop::StopAccepting() {
  const std::lock_guard lock(mutex_);
  accepting_ = false;
}
bool EngineLoop::idle() const {
  const std::lock_guard lock(mutex_);
  return num_open_ == 0;
}
bool EngineLoop::healthy() const {
  const std::lock_guard lock(mutex_);
  return healthy_;
}
EngineStats EngineLoop::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

void EngineLoop::Run(const std::stop_token& stop) {
  while (TakeCommands(stop)) {
    Turn();
  }
  core_.FailAll({StatusCode::kCancelled, "the engine is shutting down"});
  PublishAndDeliver();
  core_.SaveCachedPages();
  if (parts_.store != nullptr) {
    // What could not be written is counted by the store, and computed again next time.
    (void)parts_.store->pages->Flush();
  }
}

bool EngineLoop::TakeCommands(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  wake_.wait(lock, stop, [&] {
    return !commands_.empty() || !taken_.empty() || core_.has_work() ||
           calibration_.has_idle_work(core_);
  });
  std::move(commands_.begin(), commands_.end(), std::back_inserter(taken_));
  commands_.clear();
  if (!stop.stop_requested()) {
    return true;
  }
  // Nobody is there to take what comes now. What was accepted before and never seen by the core
  // is owed an end.
  accepting_ = false;
  ended_ = true;
  lock.unlock();
  ObeyCommands();
  return false;
}

void EngineLoop::Turn() {
  bool had_work = false;
  if (const Status status = ObeyAndStep(had_work); !status.ok()) {
    core_.FailAll(status);
    const std::lock_guard lock(mutex_);
    healthy_ = false;
  }
  PublishAndDeliver();
  Calibrate(had_work);
}

// Without memory a step may have ended anywhere: who asked is told, and no more is taken.
Status EngineLoop::ObeyAndStep(bool& had_work) {
  try {
    ObeyCommands();
    // Not for a question alone: an empty step would still age the pages' energies.
    had_work = core_.has_work();
    const Status status = had_work ? core_.Step() : Status();
    return status.ok() ? Status() : Internal("the device failed: {}", status.message());
  } catch (const std::bad_alloc&) {
    return Internal("the engine has run out of host memory");
  }
}

// Each is taken out of the queue before it is obeyed: where memory ends in one, none comes twice.
void EngineLoop::ObeyCommands() {
  while (!taken_.empty()) {
    Command command = std::move(taken_.front());
    taken_.pop_front();
    if (auto* submission = std::get_if<Submission>(&command)) {
      core_.Add(submission->request, std::move(submission->sink));
    } else if (auto* callback = std::get_if<KvCallback>(&command)) {
      kv_callbacks_.push_back(std::move(*callback));
    } else if (auto* task = std::get_if<Task>(&command)) {
      (*task)(core_);
    } else {
      core_.Cancel(std::get<RequestId>(command));
    }
  }
}

// Whoever is told that its request has ended finds stats() that already agree.
void EngineLoop::PublishAndDeliver() {
  {
    const std::lock_guard lock(mutex_);
    stats_ = TakeStats();
    num_queued_ -= core_.TakeNumAdmitted();
    CountStartable();
  }
  core_.Deliver();
  AnswerKvQueries();
  const std::lock_guard lock(mutex_);
  num_open_ -= core_.TakeNumDone();
}

// Under mutex_, after a step: who could start has. While somebody waits nobody else will; else
// the free sequences go, in order, to those who came during the step.
void EngineLoop::CountStartable() {
  const auto is_submission = [](const Command& command) {
    return std::holds_alternative<Submission>(command);
  };
  const auto num_new = std::count_if(commands_.begin(), commands_.end(), is_submission);
  const bool all_run =
      stats_.scheduler.num_waiting == 0 && num_queued_ == static_cast<int>(num_new);
  num_startable_ = all_run ? parts_.scheduler.max_num_seqs - stats_.scheduler.num_running : 0;
  num_starting_ = num_starting_choices_ = 0;
  for (const Command& command : commands_) {
    if (is_submission(command) && num_starting_choices_ < num_startable_) {
      num_starting_choices_ += std::get<Submission>(command).request->num_choices;
      ++num_starting_;
    }
  }
}

// One snapshot for all who asked: however many do, a step pays for one at most.
void EngineLoop::AnswerKvQueries() {
  if (kv_callbacks_.empty()) {
    return;
  }
  KvSnapshot taken = core_.TakeSnapshot();
  taken.stats.calibration = calibration_.stats();
  const auto snapshot = std::make_shared<const KvSnapshot>(std::move(taken));
  for (const KvCallback& callback : std::exchange(kv_callbacks_, {})) {
    callback(snapshot);
  }
}

void EngineLoop::Calibrate(bool had_work) {
  const CalibrationSchedule::Outcome outcome = calibration_.TakeTurn(core_, had_work);
  if (outcome == CalibrationSchedule::Outcome::kNothing) {
    return;
  }
  const std::lock_guard lock(mutex_);
  if (outcome == CalibrationSchedule::Outcome::kSwitched) {
    stats_ = TakeStats();  // pages have other sizes
  } else {
    stats_.calibration = calibration_.stats();
  }
}

EngineStats EngineLoop::TakeStats() const {
  EngineStats stats = core_.stats();
  stats.calibration = calibration_.stats();
  return stats;
}

}  // namespace thermocline
