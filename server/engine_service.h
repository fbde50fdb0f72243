#pragma once

#include <memory>
#include <string>
#include <utility>

#include "server/inference_service.h"

namespace thermocline {

// The engine itself. Borrows it.
class EngineService final : public InferenceService {
 public:
  explicit EngineService(Engine& engine) : engine_(engine) {}

  Result<RequestId> Submit(Request request, std::unique_ptr<OutputSink> sink) override {
    return engine_.Submit(std::move(request), std::move(sink));
  }
  void Cancel(RequestId id) override { engine_.Cancel(id); }
  bool healthy() const override { return engine_.healthy(); }
  EngineStats stats() const override { return engine_.stats(); }
  void QueryKv(KvCallback callback) override { engine_.QueryKv(std::move(callback)); }
  void SaveSession(std::string tenant, std::string id, SessionCallback callback) override {
    engine_.SaveSession(std::move(tenant), std::move(id), std::move(callback));
  }
  void RestoreSession(const std::string& tenant, const std::string& id,
                      const SessionCallback& callback) override {
    engine_.RestoreSession(tenant, id, callback);
  }
  void DeleteSession(std::string tenant, std::string id, SessionCallback callback) override {
    engine_.DeleteSession(std::move(tenant), std::move(id), std::move(callback));
  }
  void ListSessions(const std::string& tenant, const SessionListCallback& callback) override {
    engine_.ListSessions(tenant, callback);
  }
  int max_model_len() const override { return engine_.budget().max_model_len; }
  int max_requests() const override { return engine_.max_requests(); }
  const Tokenizer& tokenizer() const override { return engine_.tokenizer(); }
  const ChatTemplate& chat_template() const override { return engine_.chat_template(); }

 private:
  Engine& engine_;
};

}  // namespace thermocline
