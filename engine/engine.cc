#include "engine/engine.h"

#include <utility>

#include "engine/engine_loop.h"
#include "engine/engine_parts.h"
#include "engine/session_operations.h"

namespace thermocline {

Result<std::unique_ptr<Engine>> Engine::Create(const EngineConfig& config) {
  Result<EngineParts> parts = LoadEngineParts(config);
  if (!parts.ok()) {
    return parts.status();
  }
  return FromParts(*std::move(parts));
}

std::unique_ptr<Engine> Engine::FromParts(EngineParts parts) {
  return std::unique_ptr<Engine>(new Engine(std::move(parts)));  // NOLINT: private constructor
}

Engine::Engine(EngineParts parts)
    : parts_(std::make_unique<EngineParts>(std::move(parts))),
      loop_(std::make_unique<EngineLoop>(*parts_)),
      sessions_(std::make_unique<SessionOperations>(*parts_, *loop_)) {}

// The threads that call back end before what they call.
Engine::~Engine() {
  loop_->Stop();
  if (parts_->page_io != nullptr) {
    parts_->page_io->Stop();
  }
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
  sessions_->Save(std::move(tenant), std::move(id), std::move(callback));
}
void Engine::RestoreSession(const std::string& tenant, const std::string& id,
                            const SessionCallback& callback) {
  sessions_->Restore(tenant, id, callback);
}
void Engine::DeleteSession(std::string tenant, std::string id, SessionCallback callback) {
  sessions_->Delete(std::move(tenant), std::move(id), std::move(callback));
}
void Engine::ListSessions(const std::string& tenant, const SessionListCallback& callback) {
  sessions_->List(tenant, callback);
}

int Engine::max_model_len() const { return parts_->budget.max_model_len; }
int Engine::max_requests() const {
  return parts_->scheduler.max_num_seqs + parts_->scheduler.max_num_queued_reqs;
}
const MemoryBudget& Engine::budget() const { return parts_->budget; }
const Tokenizer& Engine::tokenizer() const { return *parts_->tokenizer; }
const ChatTemplate& Engine::chat_template() const { return *parts_->chat_template; }

}  // namespace thermocline
