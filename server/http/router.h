#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "server/http/http_types.h"

namespace thermocline {

// Finds the handler of a request: only what was added is served. Answers HEAD (as GET, without the
// body), OPTIONS, 404 and 405 itself, and gives every answer an x-request-id: the client's, if it
// is a plain word, or a new one. Who may ask at all is OriginGate's to say. Filled before the
// server starts, then immutable.
class Router {
 public:
  explicit Router(std::function<std::string()> new_request_id);

  // `path` ends in `/*` to match whatever follows.
  void Add(std::string method, std::string path, HttpHandler handler);
  void Handle(const RequestPtr& request, const WriterPtr& writer) const;

 private:
  struct Route {
    std::string method;
    std::string path;
    HttpHandler handler;
  };
  void AddCommonHeaders(const HttpRequest& request, ResponseWriter& writer) const;

  const std::function<std::string()> new_request_id_;
  std::vector<Route> routes_;
};

}  // namespace thermocline
