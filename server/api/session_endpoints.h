#pragma once

#include "server/api/api_request.h"
#include "server/http/router.h"

namespace thermocline {

// Saved conversations, by the `session_id` that their requests carried:
//   GET    /v1/kv/sessions                  {object, data: [session, ...]}, newest first
//   POST   /v1/kv/sessions/{id}/save        keeps its latest request's tokens and pages
//   POST   /v1/kv/sessions/{id}/restore     brings its pages back into memory
//   DELETE /v1/kv/sessions/{id}
// What a save or restore did only in part is told in `warning`; where it did nothing, as an error.
// `context` outlives the router.
void AddSessionEndpoints(const ApiContext& context, Router& router);

}  // namespace thermocline
