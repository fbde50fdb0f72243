#pragma once

#include <memory>
#include <string>

#include "engine/inference_service.h"
#include "engine/memory_budget.h"
#include "kernels/base/status.h"

namespace thermocline {

class EngineLoop;         // engine/engine_loop.h
class SessionOperations;  // engine/session_operations.h
struct EngineConfig;      // engine/engine_config.h
struct EngineParts;       // engine/engine_parts.h

// The one door to a model: owns the scheduler, the runner and the one engine thread. Thread-safe.
class Engine final : public InferenceService {
 public:
  // Loads the model; minutes for a large one. kInvalidArgument with one clear line for a bad file.
  static Result<std::unique_ptr<Engine>> Create(const EngineConfig& config);
  // From parts made elsewhere: tests put a fake runner among them.
  static std::unique_ptr<Engine> FromParts(EngineParts parts);
  // Cancels what runs, then joins the engine thread.
  ~Engine() override;
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  Result<RequestId> Submit(Request request, std::unique_ptr<OutputSink> sink) override;
  void Cancel(RequestId id) override;
  bool healthy() const override;
  EngineStats stats() const override;
  void QueryKv(KvCallback callback) override;
  void SaveSession(std::string tenant, std::string id, SessionCallback callback) override;
  void RestoreSession(const std::string& tenant, const std::string& id,
                      const SessionCallback& callback) override;
  void DeleteSession(std::string tenant, std::string id, SessionCallback callback) override;
  void ListSessions(const std::string& tenant, const SessionListCallback& callback) override;
  int max_model_len() const override;
  int max_requests() const override;
  const Tokenizer& tokenizer() const override;
  const ChatTemplate& chat_template() const override;

  // Graceful stop: Submit refuses new requests with kUnavailable, running ones go on.
  void StopAccepting();
  bool idle() const;  // nothing runs, nothing waits
  const MemoryBudget& budget() const;

 private:
  explicit Engine(EngineParts parts);

  // Destroyed last to first: later ones borrow earlier ones.
  std::unique_ptr<EngineParts> parts_;
  std::unique_ptr<EngineLoop> loop_;
  std::unique_ptr<SessionOperations> sessions_;
};

}  // namespace thermocline
