#pragma once

#include <functional>
#include <memory>
#include <string>

#include "engine/engine_stats.h"
#include "engine/kv/session_info.h"
#include "engine/output_sink.h"
#include "kernels/base/status.h"
#include "scheduler/request.h"

namespace thermocline {

class ChatTemplate;  // engine/text/chat_template.h
class Tokenizer;     // engine/text/tokenizer.h
struct KvSnapshot;   // engine/kv_snapshot.h

// Called on the engine thread; posts and returns. Shared by all who asked during one step.
using KvCallback = std::function<void(std::shared_ptr<const KvSnapshot>)>;

// What a server needs of an engine: Engine in the program, a fake in the tests. Thread-safe.
class InferenceService {
 public:
  virtual ~InferenceService() = default;

  // The request's id; use it to cancel. kInvalidArgument when it can never fit, kResourceExhausted
  // when the queue is full, kUnavailable when no request is taken any more. On an error the sink is
  // never called.
  virtual Result<RequestId> Submit(Request request, std::unique_ptr<OutputSink> sink) = 0;
  // Within one step, at any phase; the sink gets OnDone(kCancelled). Unknown ids are ignored.
  virtual void Cancel(RequestId id) = 0;

  virtual bool healthy() const = 0;  // false once the device or the memory has failed
  virtual EngineStats stats() const = 0;
  // `callback` gets the pages as they are after the step that runs, or now if none does.
  virtual void QueryKv(KvCallback callback) = 0;

  // The conversations that clients have named (Request::session_id), kept beyond idleness and
  // restart. Save keeps the tokens and full pages of its latest request; Restore brings the pages
  // back into the arena, so that the next request that begins alike starts at once. Errors, to the
  // callback: kUnimplemented where pages are not kept (EngineConfig::kv_store_dir), kNotFound,
  // kInvalidArgument for an id that ValidSessionId refuses, what the store says.
  virtual void SaveSession(std::string tenant, std::string id, SessionCallback callback) = 0;
  virtual void RestoreSession(const std::string& tenant, const std::string& id,
                              const SessionCallback& callback) = 0;
  virtual void DeleteSession(std::string tenant, std::string id, SessionCallback callback) = 0;
  virtual void ListSessions(const std::string& tenant, const SessionListCallback& callback) = 0;

  virtual int max_model_len() const = 0;
  // The most requests that can be there at once, running and waiting.
  virtual int max_requests() const = 0;
  virtual const Tokenizer& tokenizer() const = 0;
  virtual const ChatTemplate& chat_template() const = 0;
};

}  // namespace thermocline
