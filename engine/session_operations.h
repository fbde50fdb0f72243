#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/engine_core.h"
#include "engine/engine_loop.h"
#include "engine/engine_parts.h"
#include "engine/kv/session_info.h"
#include "kernels/base/status.h"
#include "kernels/base/token.h"
#include "scheduler/page_pool.h"

namespace thermocline {

// Saves, restores, deletes and lists the conversations that clients have named; the contracts are
// InferenceService's. Where pages are not kept, each call answers kUnimplemented. Thread-safe.
//
// A save goes to and fro. The engine thread names the pages and has those copied that the store
// does not know of. The saving thread looks whether the store really has the others. The engine
// thread has copied anew what has gone since, and the saving thread writes the session down. Its
// pages are held meanwhile, so that what is put evicts none of them.
class SessionOperations {
 public:
  // Both outlive it. EngineLoop::Stop and PageIo::Stop come before its end.
  SessionOperations(EngineParts& parts, EngineLoop& loop) : parts_(parts), loop_(loop) {}

  void Save(std::string tenant, std::string id, SessionCallback callback);
  void Restore(const std::string& tenant, const std::string& id, const SessionCallback& callback);
  void Delete(std::string tenant, std::string id, SessionCallback callback);
  void List(const std::string& tenant, const SessionListCallback& callback);

 private:
  struct Saving {
    std::string tenant;
    std::string id;
    SessionCallback callback;
    std::vector<TokenId> tokens;
    std::vector<ContentHash> prefix;  // its full pages, wherever they are
    std::vector<ContentHash> held;    // names that are pinned while it lasts
  };
  // Shared because the threads' queues hold jobs that can be copied; one thread at a time uses it.
  using SavingPtr = std::shared_ptr<Saving>;

  // Why a call cannot even begin.
  Status CheckKept() const;
  Status CheckCall(const std::string& id) const;

  void NamePages(EngineCore& core, const SavingPtr& saving);              // on the engine thread
  void VerifyCopies(const SavingPtr& saving);                             // on the saving thread
  void CopyMissing(EngineCore& core, const SavingPtr& saving);            // on the engine thread
  void WriteDown(Saving& saving, const std::vector<ContentHash>& pages);  // on the saving thread
  void LoadAndPrefetch(const std::string& tenant, const std::string& id,
                       const SessionCallback& callback);  // on the loading thread

  // Those of `pages` that the store has, up to the first that it has not.
  std::vector<ContentHash> StoredOf(std::vector<ContentHash> pages) const;

  EngineParts& parts_;
  EngineLoop& loop_;
};

}  // namespace thermocline
