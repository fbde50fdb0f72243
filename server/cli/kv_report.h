#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/store/store_survey.h"
#include "server/http/json.h"

// What `thermocline kv` says of a store's directory, for people and as JSON. Nothing that the
// directory holds can control a terminal.

namespace thermocline {

// Plain ASCII: all else, and the backslash, as \xNN.
std::string EscapeBytes(std::string_view bytes);

// `now_unix`: seconds, that ages are told from.
std::string SessionsTable(const StoreSurvey& survey, int64_t now_unix);
std::string IdentitiesReport(const StoreSurvey& survey, int64_t now_unix);
std::string SessionReport(const StoreSurvey::Session& session, int64_t now_unix);

Json SessionsJson(const std::vector<StoreSurvey::Session>& sessions);
Json IdentitiesJson(const StoreSurvey& survey);

}  // namespace thermocline
