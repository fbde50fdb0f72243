#pragma once

#include <memory>
#include <string>

#include "engine/engine.h"

namespace thermocline {

// What the API needs of an engine: EngineService in the program, a fake in the tests. Thread-safe;
// the contracts are Engine's.
class InferenceService {
 public:
  virtual ~InferenceService() = default;
  virtual Result<RequestId> Submit(Request request, std::unique_ptr<OutputSink> sink) = 0;
  virtual void Cancel(RequestId id) = 0;
  virtual bool healthy() const = 0;
  virtual EngineStats stats() const = 0;
  virtual void QueryKv(KvCallback callback) = 0;
  virtual void SaveSession(std::string tenant, std::string id, SessionCallback callback) = 0;
  virtual void RestoreSession(const std::string& tenant, const std::string& id,
                              const SessionCallback& callback) = 0;
  virtual void DeleteSession(std::string tenant, std::string id, SessionCallback callback) = 0;
  virtual void ListSessions(const std::string& tenant, const SessionListCallback& callback) = 0;
  virtual int max_model_len() const = 0;
  virtual int max_requests() const = 0;
  virtual const Tokenizer& tokenizer() const = 0;
  virtual const ChatTemplate& chat_template() const = 0;
};

}  // namespace thermocline
