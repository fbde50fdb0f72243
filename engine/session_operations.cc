#include "engine/session_operations.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <utility>

namespace thermocline {
namespace {

// Receives what the request that brings a session's pages back has come to.
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

// The last token has no K and V yet.
std::span<const TokenId> WithKv(const std::vector<TokenId>& tokens) {
  return std::span(tokens).first(tokens.empty() ? 0 : tokens.size() - 1);
}

}  // namespace

Status SessionOperations::CheckKept() const {
  if (parts_.sessions == nullptr) {
    return {StatusCode::kUnimplemented,
            "sessions are not kept: start with --kv-store-dir or --kv-store-memory-bytes"};
  }
  return {};
}

Status SessionOperations::CheckCall(const std::string& id) const {
  RETURN_IF_ERROR(CheckKept());
  if (!ValidSessionId(id)) {
    return InvalidArgument(
        "a session's id is 1 to 128 letters, digits, dots, underscores and dashes");
  }
  return {};
}

void SessionOperations::Save(std::string tenant, std::string id, SessionCallback callback) {
  if (Status status = CheckCall(id); !status.ok()) {
    callback(std::move(status));
    return;
  }
  const auto saving = std::make_shared<Saving>(
      Saving{.tenant = std::move(tenant), .id = std::move(id), .callback = std::move(callback)});
  if (!loop_.Post([this, saving](EngineCore& core) { NamePages(core, saving); })) {
    saving->callback(Unavailable("the engine is shutting down"));
  }
}

void SessionOperations::NamePages(EngineCore& core, const SavingPtr& saving) {
  const std::vector<TokenId>* tokens = core.FindSession(saving->tenant, saving->id);
  if (tokens == nullptr) {
    saving->callback(NotFound("there is no session `{}`: no request has named it", saving->id));
    return;
  }
  saving->tokens = *tokens;
  saving->prefix = core.scheduler().PrefixOf(saving->tenant, WithKv(saving->tokens));
  saving->held = parts_.sessions->Hold(saving->prefix);
  // Copied now: it may leave the arena while the rest is looked at.
  (void)core.SavePrefix(saving->tenant, WithKv(saving->tokens));
  parts_.page_io->Post(PageTransfer::Kind::kSave, [this, saving] { VerifyCopies(saving); });
}

void SessionOperations::VerifyCopies(const SavingPtr& saving) {
  parts_.sessions->Verify(saving->prefix);
  if (!loop_.Post([this, saving](EngineCore& core) { CopyMissing(core, saving); })) {
    // The engine thread has ended, and has saved all pages of the arena that the store takes.
    WriteDown(*saving, StoredOf(saving->prefix));
  }
}

// The pages are copied by the thread that then writes them down, in this order.
void SessionOperations::CopyMissing(EngineCore& core, const SavingPtr& saving) {
  std::vector<ContentHash> pages = core.SavePrefix(saving->tenant, WithKv(saving->tokens));
  parts_.page_io->Post(PageTransfer::Kind::kSave,
                       [this, saving, pages = std::move(pages)] { WriteDown(*saving, pages); });
}

void SessionOperations::WriteDown(Saving& saving, const std::vector<ContentHash>& pages) {
  Result<SessionInfo> saved =
      parts_.sessions->Save(saving.tenant, saving.id, std::move(saving.tokens), pages);
  parts_.sessions->Release(saving.held);
  saving.callback(std::move(saved));
}

std::vector<ContentHash> SessionOperations::StoredOf(std::vector<ContentHash> pages) const {
  const auto missing = std::find_if(pages.begin(), pages.end(), [this](const ContentHash& page) {
    return !parts_.page_io->Find(page).has_value();
  });
  pages.erase(missing, pages.end());
  return pages;
}

void SessionOperations::Restore(const std::string& tenant, const std::string& id,
                                const SessionCallback& callback) {
  if (Status status = CheckCall(id); !status.ok()) {
    callback(std::move(status));
    return;
  }
  parts_.page_io->Post(PageTransfer::Kind::kLoad,
                       [this, tenant, id, callback] { LoadAndPrefetch(tenant, id, callback); });
}

void SessionOperations::LoadAndPrefetch(const std::string& tenant, const std::string& id,
                                        const SessionCallback& callback) {
  Result<SavedSession> session = parts_.sessions->Load(tenant, id);
  if (!session.ok()) {
    callback(session.status());
    return;
  }
  SessionInfo info = parts_.sessions->Describe(InfoOf(*session));
  // Whatever a later request's fidelity, it is that request's to refuse a page.
  Request request{.tenant = tenant,
                  .session_id = id,
                  .prompt = std::move(session->tokens),
                  .kv_fidelity = KvFidelity::kMax,
                  .prefetch_only = true};
  if (const auto max_tokens = static_cast<size_t>(parts_.scheduler.max_model_len);
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
      loop_.Submit(std::move(request), std::make_unique<RestoreSink>(std::move(info), callback));
  if (!submitted.ok()) {
    callback(submitted.status());
  }
}

void SessionOperations::Delete(std::string tenant, std::string id, SessionCallback callback) {
  if (Status status = CheckCall(id); !status.ok()) {
    callback(std::move(status));
    return;
  }
  parts_.page_io->Post(
      PageTransfer::Kind::kSave,
      [this, tenant = std::move(tenant), id = std::move(id), callback = std::move(callback)] {
        callback(parts_.sessions->Delete(tenant, id));
      });
}

void SessionOperations::List(const std::string& tenant, const SessionListCallback& callback) {
  if (Status status = CheckKept(); !status.ok()) {
    callback(std::move(status));
    return;
  }
  callback(parts_.sessions->List(tenant));
}

}  // namespace thermocline
