#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/http/api_error.h"
#include "server/http/byte_budget.h"

namespace thermocline {

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

// One request, read whole. Names of headers are in lower case.
struct HttpRequest {
  std::string method;
  std::string target;  // as sent
  std::string path;    // percent-decoded, without the query
  HttpHeaders headers;
  std::string body;
  ByteHold body_hold;  // what of the body counts against the server's bound

  // Empty when absent.
  std::string_view Header(std::string_view lower_case_name) const;
};

struct HttpResponse {
  int status = 200;
  std::string content_type;  // empty: no body
  std::string body;
  HttpHeaders headers;
  // In place of `body`, when set: gives the next piece each time that the client has read the last,
  // and an empty one at the end. Called on the connection's strand, so a piece is small.
  std::function<std::string()> next_piece;
  size_t held_bytes = 0;  // what next_piece keeps in memory
};

HttpResponse JsonResponse(std::string body);
// JSON that is made piece by piece; one piece alone is sent as a body of known length.
HttpResponse PiecedJsonResponse(std::function<std::string()> next_piece, size_t held_bytes);
HttpResponse ErrorResponse(const ApiError& error);

// The answer to one request: either Respond, or StartStream, Write..., EndStream. Any thread may
// call it; calls take effect in order on the connection's strand. What comes after the client has
// gone is dropped. A writer destroyed without an answer answers 500.
class ResponseWriter {
 public:
  virtual ~ResponseWriter() = default;

  // Goes with whatever is answered; before the answer.
  virtual void AddHeader(std::string name, std::string value) = 0;
  virtual void Respond(HttpResponse response) = 0;
  virtual void StartStream(HttpResponse head) = 0;  // the body is ignored
  // A client that reads too slowly for its backlog is disconnected.
  virtual void Write(std::string bytes) = 0;
  virtual void EndStream() = 0;

  // `callback` is called once, on the strand, if the client goes before the answer is complete; at
  // once if it has gone already.
  virtual void OnDisconnect(std::function<void()> callback) = 0;
  // False once the connection is closed: then nobody waits for an answer.
  virtual bool connected() const { return true; }
  // Runs `task` on the strand: what belongs to one answer needs no lock.
  virtual void Post(std::function<void()> task) = 0;
};

using RequestPtr = std::shared_ptr<const HttpRequest>;  // shared with the thread that parses it
using WriterPtr = std::shared_ptr<ResponseWriter>;      // shared by all that write parts of it
// Called on the connection's strand; must not block it for long.
using HttpHandler = std::function<void(const RequestPtr&, const WriterPtr&)>;

}  // namespace thermocline
