#pragma once

#include "engine/kv_snapshot.h"
#include "server/api/api_request.h"
#include "server/http/json.h"

namespace thermocline {

// What GET /v1/kv answers; docs/operations.md has the fields.
Json KvJson(const ApiContext& context, const KvSnapshot& snapshot);

}  // namespace thermocline
