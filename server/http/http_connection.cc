#include "server/http/http_connection.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <boost/asio/post.hpp>
#include <boost/beast/http/error.hpp>
#include <utility>

#include "server/http/connection_writer.h"
#include "server/http/url.h"

namespace thermocline {
namespace {

namespace http = boost::beast::http;

constexpr size_t kMaxPipelinedBytes = size_t{64} << 10;  // read ahead of a running answer
constexpr size_t kMaxHeaderFields = 100;
constexpr size_t kMaxLingerBytes = size_t{32} << 20;
constexpr size_t kMaxBlankBytes = 256;               // empty lines before a request
constexpr size_t kFreeBodyBytes = size_t{64} << 10;  // each body may hold these beside the budget
constexpr uint64_t kMaxFramingPerByte = 8;           // "1\r\nx\r\n" is 5 for one
constexpr size_t kMaxSearchedBytes = size_t{32} << 10;

std::string_view View(boost::beast::string_view view) { return {view.data(), view.size()}; }

ApiError HttpError(int status, std::string message) {
  ApiError error;
  error.http_status = status;
  error.message = std::move(message);
  return error;
}

}  // namespace

HttpConnection::HttpConnection(Socket socket, std::string address, const ConnectionContext& context)
    : socket_(std::move(socket)),
      address_(std::move(address)),
      options_(context.options),
      handler_(context.handler),
      table_(context.table),
      gate_(context.gate),
      read_timer_(socket_.get_executor()),
      write_timer_(socket_.get_executor()) {}

HttpConnection::~HttpConnection() {
  if (state_ == State::kAnswering) {
    table_.EndAnswer();
  }
  table_.Remove(this, address_);
}

void HttpConnection::Start() {
  table_.Add(shared_from_this(), address_);
  boost::asio::post(socket_.get_executor(),
                    [self = shared_from_this()] { self->Guarded([&] { self->NextRequest(); }); });
}

void HttpConnection::Refuse(ApiError error) {
  table_.Add(shared_from_this(), address_);
  boost::asio::post(socket_.get_executor(),
                    [self = shared_from_this(), error = std::move(error)]() mutable {
                      self->Guarded([&] {
                        self->extra_headers_ = self->gate_.AnswerHeaders(std::string_view());
                        self->RefuseRequest(std::move(error));
                      });
                    });
}

void HttpConnection::CloseIfIdle() {
  boost::asio::post(socket_.get_executor(), [self = shared_from_this()] {
    if (self->state_ == State::kIdle && self->input_.empty()) {
      self->Close();
    }
  });
}

// What was begun must not look whole, and what was not gets an answer if there is memory for one.
void HttpConnection::OnException(const char* what) {
  try {
    spdlog::error("a request failed: {}", what);
    if (state_ == State::kAnswering && !started_) {
      ApiError error = HttpError(503, "the server has no memory for this request");
      error.retry_after_seconds = 1;
      std::function<void()> on_disconnect = std::exchange(on_disconnect_, nullptr);
      Respond(answer_, ErrorResponse(error));
      if (on_disconnect) {
        on_disconnect();
      }
      return;
    }
  } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch): closing needs no memory
  }
  try {
    Close();
  } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch): a callback's; it is closed
  }
}

void HttpConnection::NextRequest() {
  if (state_ == State::kClosed) {
    return;
  }
  state_ = State::kIdle;
  request_.reset();
  answer_hold_.Release();
  parser_.emplace();
  parser_->header_limit(options_.max_header_bytes);
  parser_->body_limit(options_.max_body_bytes);
  num_blank_bytes_ = 0;
  num_wire_bytes_ = num_held_bytes_ = 0;
  extra_headers_.clear();
  started_ = complete_ = head_only_ = http_1_0_ = false;
  keep_alive_ = true;
  StartTimer(options_.idle_timeout);
  Parse();
}

void HttpConnection::StartTimer(std::chrono::milliseconds timeout) {
  read_timer_.expires_after(timeout);
  read_timer_.async_wait([self = shared_from_this()](const ErrorCode& error) {
    if (!error && self->read_timer_.expiry() <= std::chrono::steady_clock::now()) {
      self->Guarded([&] { self->OnReadTimeout(); });
    }
  });
}

void HttpConnection::OnReadTimeout() {
  if (state_ == State::kHeader || state_ == State::kBody) {
    NoteOrigin();
    RefuseRequest(HttpError(408, "the request did not arrive in time"));
  } else if (state_ == State::kIdle || state_ == State::kLingering) {
    Close();
  }
}

void HttpConnection::Read() {
  if (reading_ || input_closed_ || state_ == State::kClosed ||
      (state_ == State::kAnswering && input_.size() >= kMaxPipelinedBytes)) {
    return;
  }
  reading_ = true;
  socket_.async_read_some(boost::asio::buffer(chunk_),
                          [self = shared_from_this()](const ErrorCode& error, size_t num_bytes) {
                            self->Guarded([&] { self->OnRead(error, num_bytes); });
                          });
}

void HttpConnection::OnRead(const ErrorCode& error, size_t num_bytes) {
  reading_ = false;
  if (state_ == State::kClosed) {
    return;
  }
  if (error) {
    OnInputClosed(error);
    return;
  }
  if (state_ == State::kLingering) {
    lingered_bytes_ += num_bytes;
    if (lingered_bytes_ > kMaxLingerBytes) {
      Close();
      return;
    }
  } else {
    input_.append(chunk_.data(), num_bytes);
  }
  if (state_ == State::kAnswering || state_ == State::kLingering) {
    Read();
  } else {
    Parse();
  }
}

void HttpConnection::OnInputClosed(const ErrorCode& error) {
  input_closed_ = true;
  const bool half_closed = error == boost::asio::error::eof;
  // An answer that nothing can cancel is short: it is still sent to a client that half-closed.
  if (state_ == State::kAnswering && half_closed && !on_disconnect_) {
    return;
  }
  Close();
}

void HttpConnection::Parse() {
  if (state_ == State::kIdle && !SkipBlankLines()) {
    return;
  }
  while (!input_.empty() && state_ != State::kAnswering && !parser_->is_done()) {
    if (state_ == State::kIdle) {
      if (input_ == "\r") {  // perhaps another blank line
        break;
      }
      state_ = State::kHeader;
      StartTimer(options_.header_timeout);
    }
    ErrorCode error;
    const size_t used = parser_->put(boost::asio::buffer(input_), error);
    if (error && error != http::error::need_more) {
      RefuseMalformed(error);
      return;
    }
    input_.erase(0, used);
    if (state_ == State::kBody && !AcceptBody(used)) {
      return;
    }
    // The header is parsed alone: fields that come behind a body are none of it.
    if (state_ == State::kHeader && parser_->is_header_done()) {
      if (!AcceptHeader()) {
        return;
      }
      parser_->eager(true);
      state_ = State::kBody;
      StartTimer(options_.body_timeout);
    } else if (error == http::error::need_more || used == 0) {
      break;
    }
  }
  if (state_ == State::kBody && parser_->is_done()) {
    Dispatch();
  } else if (state_ == State::kBody && input_.size() > options_.max_header_bytes) {
    RefuseRequest(HttpError(400, fmt::format("a chunk's size or the fields behind the body take "
                                             "more than {} bytes",
                                             options_.max_header_bytes)));
  }
  Read();
}

// RFC 9112, 2.2: some clients end a body with an empty line that its length does not count.
bool HttpConnection::SkipBlankLines() {
  size_t size = 0;
  while (input_.compare(size, 2, "\r\n") == 0) {
    size += 2;
  }
  input_.erase(0, size);
  num_blank_bytes_ += size;
  if (num_blank_bytes_ > kMaxBlankBytes) {
    RefuseRequest(HttpError(400, "malformed HTTP: there are only empty lines"));
    return false;
  }
  return true;
}

bool HttpConnection::AcceptHeader() {
  const auto& header = parser_->get();
  request_ = std::make_shared<HttpRequest>();
  request_->method = View(header.method_string());
  request_->target = View(header.target());
  request_->path = UrlPath(request_->target);
  for (const auto& field : header) {
    request_->headers.emplace_back(AsciiLower(View(field.name_string())), View(field.value()));
  }
  head_only_ = header.method() == http::verb::head;
  http_1_0_ = header.version() == 10;
  extra_headers_ = gate_.AnswerHeaders(*request_);
  if (!CheckFraming()) {
    return false;
  }
  if (std::optional<ApiError> error = gate_.Check(*request_)) {
    RefuseRequest(*std::move(error));
    return false;
  }
  if (!CheckContent()) {
    return false;
  }
  if (header.version() == 11 && header.count(http::field::expect) > 0 && !parser_->is_done()) {
    Enqueue("HTTP/1.1 100 Continue\r\n\r\n");
  }
  return true;
}

// What Beast lets pass, and a server that others may stand in front of must not.
bool HttpConnection::CheckFraming() {
  const auto& header = parser_->get();
  const auto refuse = [this](int status, std::string message) {
    RefuseRequest(HttpError(status, std::move(message)));
    return false;
  };
  if (header.version() != 11 && header.version() != 10) {
    return refuse(505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
  }
  if (request_->headers.size() > kMaxHeaderFields) {
    return refuse(431, fmt::format("more than {} header fields", kMaxHeaderFields));
  }
  const size_t num_hosts = header.count(http::field::host);
  const size_t num_lengths = header.count(http::field::content_length);
  if (num_hosts > 1 || (num_hosts == 0 && header.version() == 11)) {
    return refuse(400, "there must be one Host header");
  }
  const bool has_encoding = header.count(http::field::transfer_encoding) > 0;
  if (num_lengths > 1 || (num_lengths > 0 && has_encoding)) {
    return refuse(400, "the length of the body is given twice");
  }
  if (has_encoding && (header.version() == 10 ||
                       AsciiLower(View(header.at(http::field::transfer_encoding))) != "chunked")) {
    return refuse(501, "the only Transfer-Encoding understood is `chunked`");
  }
  return true;
}

bool HttpConnection::CheckContent() {
  for (const auto& [name, value] : request_->headers) {
    if (name == "expect" && AsciiLower(value) != "100-continue") {
      RefuseRequest(HttpError(417, "the only expectation understood is `100-continue`"));
      return false;
    }
    if (name == "content-encoding" && !value.empty() && AsciiLower(value) != "identity") {
      extra_headers_.emplace_back("Accept-Encoding", "identity");
      RefuseRequest(HttpError(415, "compressed bodies are not understood: send it as it is"));
      return false;
    }
  }
  return true;
}

// A small body is always taken: its connection is bounded already.
bool HttpConnection::AcceptBody(size_t used) {
  const uint64_t size = parser_->get().body().size();
  num_wire_bytes_ += used;
  if (num_wire_bytes_ - size > options_.max_header_bytes + kMaxFramingPerByte * size) {
    RefuseRequest(HttpError(400, "malformed HTTP: there is more about the chunks than in them"));
    return false;
  }
  if (size <= kFreeBodyBytes + num_held_bytes_) {
    return true;
  }
  const uint64_t more = size - kFreeBodyBytes - num_held_bytes_;
  if (!request_->body_hold.Grow(table_.held_bytes(), more)) {
    ApiError error = HttpError(503, "too many large requests are under way");
    error.retry_after_seconds = 1;
    RefuseRequest(std::move(error));
    return false;
  }
  num_held_bytes_ += more;
  return true;
}

// A page may read the error if it was told to be allowed, so the Origin is looked for in what came.
void HttpConnection::NoteOrigin() {
  if (request_) {
    return;  // the header was whole
  }
  std::string_view origin;
  if (const auto field = parser_->get().find(http::field::origin); field != parser_->get().end()) {
    origin = View(field->value());
  }
  const std::string lower = AsciiLower(std::string_view(input_).substr(0, kMaxSearchedBytes));
  constexpr std::string_view kName = "\r\norigin:";
  if (const size_t at = lower.find(kName); origin.empty() && at != std::string::npos) {
    const size_t begin = lower.find_first_not_of(" \t", at + kName.size());
    const size_t end = lower.find("\r\n", begin);
    if (begin != std::string::npos && end != std::string::npos) {
      origin = std::string_view(input_).substr(begin, end - begin);
    }
  }
  extra_headers_ = gate_.AnswerHeaders(origin);
}

void HttpConnection::Dispatch() {
  http::request<http::string_body> message = parser_->release();
  request_->body = std::move(message.body());
  keep_alive_ = message.keep_alive();
  read_timer_.cancel();
  BeginAnswer();
  if (gate_.IsPreflight(*request_)) {
    HttpResponse response;
    response.status = 204;
    Respond(answer_, std::move(response));
    return;
  }
  handler_(std::exchange(request_, nullptr),
           std::make_shared<ConnectionWriter>(shared_from_this(), answer_));
}

void HttpConnection::BeginAnswer() {
  state_ = State::kAnswering;
  ++answer_;
  table_.BeginAnswer();
}

// The rest of the input cannot be trusted to start a request, so the connection ends here.
void HttpConnection::RefuseRequest(ApiError error) {
  if (state_ == State::kClosed) {
    return;
  }
  spdlog::debug("refused a request: {} {}", error.http_status, error.message);
  read_timer_.cancel();
  keep_alive_ = false;
  BeginAnswer();
  Respond(answer_, ErrorResponse(error));
  Read();
}

void HttpConnection::RefuseMalformed(const ErrorCode& error) {
  NoteOrigin();
  if (error == http::error::header_limit) {
    RefuseRequest(HttpError(
        431, fmt::format("the header is longer than {} bytes", options_.max_header_bytes)));
  } else if (error == http::error::body_limit || error == http::error::buffer_overflow) {
    RefuseRequest(
        HttpError(413, fmt::format("the body is longer than {} bytes", options_.max_body_bytes)));
  } else {
    RefuseRequest(HttpError(400, fmt::format("malformed HTTP: {}", error.message())));
  }
}

}  // namespace thermocline
