#pragma once

#include <string_view>

#include "server/api/api_request.h"
#include "server/http/http_types.h"

namespace thermocline {

// vLLM's POST /tokenize and /detokenize, body to response. They run the template and the tokenizer.
HttpResponse Tokenize(const ApiContext& context, std::string_view body);
HttpResponse Detokenize(const ApiContext& context, std::string_view body);

}  // namespace thermocline
