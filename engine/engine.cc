#include "engine/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <new>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "engine/engine_core.h"
#include "engine/engine_parts.h"
#include "engine/kv_snapshot.h"
#include "kernels/base/check.h"

namespace thermocline {

namespace {

// Of the request that brings a session's pages back.
class RestoreSink : public OutputSink {
 public:
  RestoreSink(SessionInfo info, SessionCallback callback)
      : info_(std::move(info)), callback_(std::move(callback)) {}
  void OnDelta(OutputDelta /*delta*/) override {}
  void OnDone(const Status& status, const Usage& usage) override {
    if (!status.ok()) {
      callback_(status);
      return;
    }
    info_.num_restored_tokens = static_cast<uint64_t>(usage.cached_prompt_tokens);
    if (info_.num_restored_tokens == 0) {
      callback_(NothingRestored());
      return;
    }
    if (info_.warning.empty() && info_.num_restored_tokens < info_.num_saved_tokens) {
      info_.warning = fmt::format("{} of {} saved tokens could be restored",
                                  info_.num_restored_tokens, info_.num_saved_tokens);
    }
    callback_(std::move(info_));
  }

 private:
  Status NothingRestored() const {
    if (info_.num_saved_tokens == 0) {
      return FailedPrecondition(
          "nothing of session {} can be restored: its first page is not in the page store any more",
          info_.id);
    }
    return Unavailable(
        "nothing of session {} was restored: its pages could not be read, are in other formats "
        "than those in force, or found no room in the KV cache",
        info_.id);
  }

  SessionInfo info_;
  SessionCallback callback_;
};

// Why a call on sessions cannot even begin.
Status CheckSessionCall(const EngineParts& parts, const std::string& id) {
  if (parts.sessions == nullptr) {
    return {StatusCode::kUnimplemented,
            "sessions are not kept: start with --kv-store-dir or --kv-store-memory-bytes"};
  }
  if (!ValidSessionId(id)) {
    return InvalidArgument(
        "a session's id is 1 to 128 letters, digits, dots, underscores and dashes");
  }
  return {};
}

}  // namespace

// The queue in front of an EngineCore and the thread that empties it.
class Engine::Loop {
 public:
  struct SaveCommand {
    std::string tenant;
    std::string id;
    SessionCallback callback;
  };
  // A save whose copies in the store have been verified.
  struct VerifiedSave {
    SaveCommand command;
    std::vector<TokenId> tokens;
    std::vector<ContentHash> prefix;  // its full pages, wherever they are
    std::vector<ContentHash> held;    // names that are pinned while it lasts
  };

  explicit Loop(EngineParts parts)
      : parts_(std::move(parts)),
        core_(parts_.scheduler, *parts_.pool, *parts_.runner, *parts_.tokenizer,
              parts_.page_io.get()),
        stats_(Stats()),
        thread_([this](const std::stop_token& stop) { Run(stop); }) {
    if (parts_.page_io != nullptr) {
      parts_.page_io->set_on_end([this] {
        const std::lock_guard lock(mutex_);
        wake_.notify_one();
      });
    }
  }

  // The threads that call back end before what they call.
  ~Loop() {
    thread_.request_stop();
    wake_.notify_all();
    thread_.join();
    if (parts_.page_io != nullptr) {
      parts_.page_io->Stop();
    }
    // Verified just as the thread ended.
    for (Command& command : commands_) {
      if (auto* save = std::get_if<VerifiedSave>(&command)) {
        const std::vector<ContentHash> pages = StoredOf(save->prefix);
        FinishSave(std::move(*save), pages);
      }
    }
  }
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  Result<RequestId> Submit(Request request, std::unique_ptr<OutputSink> sink) {
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
    commands_.emplace_back(
        Submission{std::make_shared<const Request>(std::move(request)), std::move(sink)});
    wake_.notify_one();
    return id;
  }

  void Cancel(RequestId id) {
    const std::lock_guard lock(mutex_);
    commands_.emplace_back(id);
    wake_.notify_one();
  }

  void QueryKv(KvCallback callback) {
    const std::lock_guard lock(mutex_);
    commands_.emplace_back(std::move(callback));
    wake_.notify_one();
  }

  void SaveSession(SaveCommand command) {
    std::unique_lock lock(mutex_);
    if (ended_) {
      lock.unlock();
      command.callback(Unavailable("the engine is shutting down"));
      return;
    }
    commands_.emplace_back(std::move(command));
    wake_.notify_one();
  }

  void StopAccepting() {
    const std::lock_guard lock(mutex_);
    accepting_ = false;
  }
  bool idle() const {
    const std::lock_guard lock(mutex_);
    return num_open_ == 0;
  }
  bool healthy() const {
    const std::lock_guard lock(mutex_);
    return healthy_;
  }
  EngineStats stats() const {
    const std::lock_guard lock(mutex_);
    return stats_;
  }
  const EngineParts& parts() const { return parts_; }

 private:
  static constexpr int kMaxStepsBeforeSwitch = 1000;

  struct Submission {
    std::shared_ptr<const Request> request;
    std::unique_ptr<OutputSink> sink;
  };
  // RequestId: cancel
  using Command = std::variant<Submission, RequestId, KvCallback, SaveCommand, VerifiedSave>;

  void Run(const std::stop_token& stop) {
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

  // Without memory a step may have ended anywhere: who asked is told, and no more is taken.
  void Turn() {
    Status status;
    bool has_work = false;
    try {
      ObeyCommands();
      // Not for a question alone: an empty step would still age the pages' energies.
      has_work = core_.has_work();
      status = has_work ? core_.Step() : Status();
    } catch (const std::bad_alloc&) {
      status = Internal("out of memory");
    }
    if (!status.ok()) {
      core_.FailAll(Internal("the device failed: {}", status.message()));
      const std::lock_guard lock(mutex_);
      healthy_ = false;
    }
    PublishAndDeliver();
    if (WantsToCalibrate()) {
      Calibrate(has_work);
    }
  }

  // While no request runs or waits.
  bool CalibratesWhenIdle() const {
    if (parts_.live_calibration == nullptr || core_.scheduler().has_work()) {
      return false;
    }
    return !parts_.live_calibration->ended() ||
           (parts_.live_calibration->wants_switch() && core_.CanSwitchFormats());
  }

  bool WantsToCalibrate() const {
    return parts_.live_calibration != nullptr &&
           (!parts_.live_calibration->ended() || parts_.live_calibration->wants_switch());
  }

  // A piece of calibration, or the switch to what it has found: at a moment when that costs nobody
  // anything, or after kMaxStepsBeforeSwitch.
  void Calibrate(bool had_work) {
    LiveCalibration& calibration = *parts_.live_calibration;
    if (!calibration.ended()) {
      if (had_work ? core_.last_step_seconds() > 0 : CalibratesWhenIdle()) {
        calibration.Work(had_work ? core_.last_step_seconds() : 0);
      }
    } else if (core_.CanSwitchFormats() || ++num_steps_before_switch_ > kMaxStepsBeforeSwitch) {
      core_.SwitchFormats(calibration.page_bytes(), [&] { calibration.Switch(); });
    }
    const std::lock_guard lock(mutex_);
    stats_ = Stats();
  }

  EngineStats Stats() const {
    EngineStats stats = core_.stats();
    const LiveCalibration* live = parts_.live_calibration.get();
    if (live == nullptr) {
      stats.calibration = parts_.calibration_state;
      stats.calibration_fraction = stats.calibration == CalibrationState::kCalibrated ? 1 : 0;
      stats.cold_kl = parts_.calibration.cold_kl;
      return stats;
    }
    stats.calibration_fraction = live->fraction();
    stats.calibration = live->switched()       ? CalibrationState::kCalibrated
                        : live->wants_switch() ? CalibrationState::kSwitching
                        : live->ended()        ? CalibrationState::kFailed
                                               : CalibrationState::kMeasuring;
    stats.cold_kl = live->switched() ? live->result().cold_kl : 0;
    return stats;
  }

  // What the store says that it has is looked at first, on the thread that copies pages; what has
  // gone since is then copied anew.
  void StartSave(SaveCommand command) {
    const std::vector<TokenId>* tokens = core_.FindSession(command.tenant, command.id);
    if (tokens == nullptr) {
      command.callback(NotFound("there is no session `{}`: no request has named it", command.id));
      return;
    }
    VerifiedSave save{.command = std::move(command), .tokens = *tokens};
    save.prefix = core_.scheduler().PrefixOf(save.command.tenant, WithKv(save.tokens));
    save.held = parts_.sessions->Hold(save.prefix);
    // What it has not is copied now: it may leave the arena while the rest is looked at.
    (void)core_.SavePrefix(save.command.tenant, WithKv(save.tokens));
    parts_.page_io->Post(PageTransfer::Kind::kSave, [this, save = std::move(save)]() mutable {
      parts_.sessions->Verify(save.prefix);
      std::unique_lock lock(mutex_);
      if (!ended_) {
        commands_.emplace_back(std::move(save));
        wake_.notify_one();
        return;
      }
      lock.unlock();
      // The arena's pages have all been saved, as far as the store takes them.
      std::vector<ContentHash> pages = StoredOf(save.prefix);
      FinishSave(std::move(save), pages);
    });
  }

  // The pages are copied by the thread that then writes them down, in this order.
  void CopyPages(VerifiedSave save) {
    std::vector<ContentHash> pages = core_.SavePrefix(save.command.tenant, WithKv(save.tokens));
    parts_.page_io->Post(PageTransfer::Kind::kSave,
                         [this, save = std::move(save), pages = std::move(pages)]() mutable {
                           FinishSave(std::move(save), pages);
                         });
  }

  void FinishSave(VerifiedSave save, const std::vector<ContentHash>& pages) {
    Result<SessionInfo> saved =
        parts_.sessions->Save(save.command.tenant, save.command.id, std::move(save.tokens), pages);
    parts_.sessions->Release(save.held);
    save.command.callback(std::move(saved));
  }

  std::vector<ContentHash> StoredOf(std::vector<ContentHash> pages) const {
    const auto missing = std::find_if(pages.begin(), pages.end(), [this](const ContentHash& page) {
      return !parts_.page_io->Find(page).has_value();
    });
    pages.erase(missing, pages.end());
    return pages;
  }

  // The last token has no K and V yet.
  static std::span<const TokenId> WithKv(const std::vector<TokenId>& tokens) {
    return std::span(tokens).first(tokens.empty() ? 0 : tokens.size() - 1);
  }

  // Waits for something to do; false when the engine is to stop.
  bool TakeCommands(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, stop,
               [&] { return !commands_.empty() || core_.has_work() || CalibratesWhenIdle(); });
    taken_.swap(commands_);
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

  void ObeyCommands() {
    for (Command& command : taken_) {
      if (auto* submission = std::get_if<Submission>(&command)) {
        core_.Add(submission->request, std::move(submission->sink));
      } else if (auto* callback = std::get_if<KvCallback>(&command)) {
        kv_callbacks_.push_back(std::move(*callback));
      } else if (auto* save = std::get_if<SaveCommand>(&command)) {
        StartSave(std::move(*save));
      } else if (auto* verified = std::get_if<VerifiedSave>(&command)) {
        CopyPages(std::move(*verified));
      } else {
        core_.Cancel(std::get<RequestId>(command));
      }
    }
    taken_.clear();
  }

  // Whoever is told that its request has ended finds stats() that already agree.
  void PublishAndDeliver() {
    {
      const std::lock_guard lock(mutex_);
      stats_ = Stats();
      num_queued_ -= core_.TakeNumAdmitted();
      CountPlaces();
    }
    core_.Deliver();
    AnswerKvQueries();
    const std::lock_guard lock(mutex_);
    num_open_ -= core_.TakeNumDone();
  }

  // Under mutex_, after a step: who could start has. While somebody waits nobody else will; else
  // the free sequences go, in order, to those who came during the step.
  void CountPlaces() {
    const auto is_submission = [](const Command& command) {
      return std::holds_alternative<Submission>(command);
    };
    const auto num_new = std::count_if(commands_.begin(), commands_.end(), is_submission);
    const bool all_run = stats_.num_waiting == 0 && num_queued_ == static_cast<int>(num_new);
    num_startable_ = all_run ? parts_.scheduler.max_num_seqs - stats_.num_running : 0;
    num_starting_ = num_starting_choices_ = 0;
    for (const Command& command : commands_) {
      if (is_submission(command) && num_starting_choices_ < num_startable_) {
        num_starting_choices_ += std::get<Submission>(command).request->num_choices;
        ++num_starting_;
      }
    }
  }

  // One snapshot for all who asked: however many do, a step pays for one at most.
  void AnswerKvQueries() {
    if (kv_callbacks_.empty()) {
      return;
    }
    KvSnapshot taken = core_.TakeSnapshot();
    taken.stats = Stats();
    const auto snapshot = std::make_shared<const KvSnapshot>(std::move(taken));
    for (const KvCallback& callback : std::exchange(kv_callbacks_, {})) {
      callback(snapshot);
    }
  }

  EngineParts parts_;
  // The engine thread's alone, down to kv_callbacks_:
  EngineCore core_;
  std::deque<Command> taken_;
  std::vector<KvCallback> kv_callbacks_;
  int num_steps_before_switch_ = 0;

  mutable std::mutex mutex_;
  // Guarded by mutex_, down to stats_:
  std::deque<Command> commands_;
  RequestId next_id_ = 1;
  int num_queued_ = 0;  // submitted and not yet admitted
  // Sequences that are free for whoever is submitted next.
  int num_startable_ = parts_.scheduler.max_num_seqs;
  int num_starting_ = 0;  // of those queued, how many have found such, and for how many choices
  int num_starting_choices_ = 0;
  int num_open_ = 0;  // submitted and not yet told that they ended
  bool accepting_ = true;
  bool ended_ = false;  // the engine thread takes no more commands
  bool healthy_ = true;
  EngineStats stats_;
  std::condition_variable_any wake_;

  std::jthread thread_;  // last: it uses all of the above
};

Engine::Engine(std::unique_ptr<Loop> loop) : loop_(std::move(loop)) {}
Engine::~Engine() = default;

Result<std::unique_ptr<Engine>> Engine::Create(const EngineConfig& config) {
  Result<EngineParts> parts = LoadEngineParts(config);
  if (!parts.ok()) {
    return parts.status();
  }
  return FromParts(*std::move(parts));
}

std::unique_ptr<Engine> Engine::FromParts(EngineParts parts) {
  return std::unique_ptr<Engine>(  // NOLINT: private constructor
      new Engine(std::make_unique<Loop>(std::move(parts))));
}

Result<RequestId> Engine::Submit(Request request, std::unique_ptr<OutputSink> sink) {
  return loop_->Submit(std::move(request), std::move(sink));
}
void Engine::Cancel(RequestId id) { loop_->Cancel(id); }
void Engine::StopAccepting() { loop_->StopAccepting(); }
bool Engine::idle() const { return loop_->idle(); }
bool Engine::healthy() const { return loop_->healthy(); }
EngineStats Engine::stats() const { return loop_->stats(); }
void Engine::QueryKv(KvCallback callback) { loop_->QueryKv(std::move(callback)); }
void Engine::SaveSession(std::string tenant, std::string id, SessionCallback callback) {
  if (Status status = CheckSessionCall(loop_->parts(), id); !status.ok()) {
    callback(std::move(status));
    return;
  }
  loop_->SaveSession({std::move(tenant), std::move(id), std::move(callback)});
}

void Engine::RestoreSession(const std::string& tenant, const std::string& id,
                            const SessionCallback& callback) {
  const EngineParts& parts = loop_->parts();
  if (Status status = CheckSessionCall(parts, id); !status.ok()) {
    callback(std::move(status));
    return;
  }
  parts.page_io->Post(PageTransfer::Kind::kLoad, [this, tenant, id, callback] {
    Result<SavedSession> session = loop_->parts().sessions->Load(tenant, id);
    if (!session.ok()) {
      callback(session.status());
      return;
    }
    SessionInfo info = loop_->parts().sessions->Describe(InfoOf(*session));
    // Whatever a later request's fidelity, it is that request's to refuse a page.
    Request request{.tenant = tenant,
                    .session_id = id,
                    .prompt = std::move(session->tokens),
                    .kv_fidelity = KvFidelity::kMax,
                    .prefetch_only = true};
    if (const auto max_tokens = static_cast<size_t>(loop_->parts().scheduler.max_model_len);
        request.prompt.size() > max_tokens) {
      // Saved under a longer --max-model-len. Without its name, or a save would cut what is saved.
      info.warning = fmt::format(
          "the session has {} tokens: its first {} are restored, as many as "
          "--max-model-len allows",
          request.prompt.size(), max_tokens);
      request.prompt.resize(max_tokens);
      request.session_id.clear();
    }
    request.stop.max_tokens = 0;
    const Result<RequestId> submitted =
        loop_->Submit(std::move(request), std::make_unique<RestoreSink>(std::move(info), callback));
    if (!submitted.ok()) {
      callback(submitted.status());
    }
  });
}

void Engine::DeleteSession(std::string tenant, std::string id, SessionCallback callback) {
  const EngineParts& parts = loop_->parts();
  if (Status status = CheckSessionCall(parts, id); !status.ok()) {
    callback(std::move(status));
    return;
  }
  parts.page_io->Post(
      PageTransfer::Kind::kSave,
      [&parts, tenant = std::move(tenant), id = std::move(id), callback = std::move(callback)] {
        callback(parts.sessions->Delete(tenant, id));
      });
}

void Engine::ListSessions(const std::string& tenant, const SessionListCallback& callback) {
  const EngineParts& parts = loop_->parts();
  if (Status status = CheckSessionCall(parts, "any"); !status.ok()) {
    callback(std::move(status));
    return;
  }
  callback(parts.sessions->List(tenant));
}

int Engine::max_requests() const {
  const SchedulerConfig& scheduler = loop_->parts().scheduler;
  return scheduler.max_num_seqs + scheduler.max_num_queued_reqs;
}
const MemoryBudget& Engine::budget() const { return loop_->parts().budget; }
const Tokenizer& Engine::tokenizer() const { return *loop_->parts().tokenizer; }
const ChatTemplate& Engine::chat_template() const { return *loop_->parts().chat_template; }

}  // namespace thermocline
