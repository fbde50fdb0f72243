#include "server/cli/kv_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "engine/store/posix_file_io.h"
#include "engine/store/record.h"
#include "engine/store/store_removal.h"
#include "engine/store/store_survey.h"
#include "server/cli/kv_report.h"
#include "server/http/json.h"

namespace thermocline {
namespace {

void PrintJson(const Json& json) {
  // As in a table: nothing but ASCII, for a tenant may be any bytes.
  fmt::print("{}\n", json.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace));
}

std::vector<StoreSurvey::Session> FindSessions(const KvOptions& options,
                                               const StoreSurvey& survey) {
  std::vector<StoreSurvey::Session> found;
  std::copy_if(survey.sessions.begin(), survey.sessions.end(), std::back_inserter(found),
               [&options](const StoreSurvey::Session& session) {
                 return session.tenant == options.tenant && session.id == options.session;
               });
  return found;
}

Status NoSession(const KvOptions& options) {
  return NotFound("there is no session {} of tenant {} in {}", EscapeBytes(options.session),
                  EscapeBytes(options.tenant), options.directory);
}

Status List(const KvOptions& options, FileIo& io, int64_t now_unix) {
  const Result<StoreSurvey> survey = SurveyStore(io, options.directory);
  if (!survey.ok()) {
    return survey.status();
  }
  if (options.json) {
    PrintJson(SessionsJson(survey->sessions));
  } else {
    fmt::print("{}", SessionsTable(*survey, now_unix));
  }
  return {};
}

Status Inspect(const KvOptions& options, FileIo& io, int64_t now_unix) {
  const Result<StoreSurvey> survey = SurveyStore(io, options.directory);
  if (!survey.ok()) {
    return survey.status();
  }
  if (options.session.empty()) {
    if (options.json) {
      PrintJson(IdentitiesJson(*survey));
    } else {
      fmt::print("{}", IdentitiesReport(*survey, now_unix));
    }
    return {};
  }
  const std::vector<StoreSurvey::Session> sessions = FindSessions(options, *survey);
  if (sessions.empty()) {
    return NoSession(options);
  }
  if (options.json) {
    PrintJson(SessionsJson(sessions));
    return {};
  }
  for (size_t i = 0; i < sessions.size(); ++i) {
    fmt::print("{}{}", i == 0 ? "" : "\n", SessionReport(sessions[i], now_unix));
  }
  return {};
}

// All, or the one whose digits begin so.
Result<std::vector<ContentHash>> FindIdentities(const KvOptions& options,
                                                const StoreSurvey& survey) {
  std::vector<ContentHash> found;
  for (const StoreSurvey::Identity& identity : survey.identities) {
    if (options.remove_all || HexDigits(identity.hash).starts_with(options.identity)) {
      found.push_back(identity.hash);
    }
  }
  if (found.empty() && !options.remove_all) {
    return NotFound("there is no model {} in {}", options.identity, options.directory);
  }
  if (found.size() > 1 && !options.remove_all) {
    return InvalidArgument("{} models in {} begin with {}: more digits are needed", found.size(),
                           options.directory, options.identity);
  }
  return found;
}

Status RemoveIdentities(const KvOptions& options, const StoreSurvey& survey,
                        StoreRemoval& removal) {
  const Result<std::vector<ContentHash>> identities = FindIdentities(options, survey);
  if (!identities.ok()) {
    return identities.status();
  }
  for (const ContentHash& identity : *identities) {
    RETURN_IF_ERROR(removal.RemoveIdentity(identity));
  }
  return {};
}

Status RemoveSessions(const KvOptions& options, const StoreSurvey& survey, StoreRemoval& removal) {
  const std::vector<StoreSurvey::Session> sessions = FindSessions(options, survey);
  if (sessions.empty()) {
    const Status removed = removal.RemoveUnreadableSession(options.tenant, options.session);
    return removed.code() == StatusCode::kNotFound ? NoSession(options) : removed;
  }
  for (const StoreSurvey::Session& session : sessions) {
    RETURN_IF_ERROR(removal.RemoveSession(session));
  }
  return {};
}

Status Remove(const KvOptions& options, FileIo& io) {
  // Before the lock, which makes its file: not in a directory that is none of ours.
  if (const Result<StoreSurvey> before = SurveyStore(io, options.directory); !before.ok()) {
    return before.status();
  }
  Result<StoreRemoval> removal = StoreRemoval::Open(io, options.directory);
  if (!removal.ok() && removal.status().code() == StatusCode::kFailedPrecondition) {
    return FailedPrecondition(
        "a server has {}: ask it to delete a session (DELETE /v1/kv/sessions/ID), or stop it first",
        options.directory);
  }
  if (!removal.ok()) {
    return removal.status();
  }
  const Result<StoreSurvey> survey = SurveyStore(io, options.directory);
  if (!survey.ok()) {
    return survey.status();
  }
  const bool whole = options.remove_all || !options.identity.empty();
  RETURN_IF_ERROR(whole ? RemoveIdentities(options, *survey, *removal)
                        : RemoveSessions(options, *survey, *removal));
  if (options.json) {
    PrintJson({{"removed_files", removal->num_files_removed()}});
  } else if (whole) {
    fmt::print("removed {} files\n", removal->num_files_removed());
  } else {
    fmt::print("removed {}; its pages stay until room is needed\n", EscapeBytes(options.session));
  }
  return {};
}

}  // namespace

int RunKv(KvOptions options, int64_t now_unix) {
  PosixFileIo io;
  Status status;
  if (Result<std::string> resolved = ResolveDirectory(options.directory); resolved.ok()) {
    options.directory = *std::move(resolved);  // the directory itself may be a link
  }
  switch (options.action) {
    case KvOptions::Action::kList:
      status = List(options, io, now_unix);
      break;
    case KvOptions::Action::kInspect:
      status = Inspect(options, io, now_unix);
      break;
    case KvOptions::Action::kRemove:
      status = Remove(options, io);
      break;
  }
  if (!status.ok()) {
    fmt::print(stderr, "thermocline kv: {}\n", status.message());
    return EXIT_FAILURE;
  }
  return EXIT_SUCCESS;
}

}  // namespace thermocline
