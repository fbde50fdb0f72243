#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

#include "server/http/origin_gate.h"

namespace thermocline {

// What one HTTP server accepts. Every limit bounds what a client that was not invited can cost.
struct HttpOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 8000;  // 0: any free one
  int num_threads = 2;
  int max_connections = 1024;                   // more are answered 503
  int max_connections_per_address = 0;          // 429; an IPv6 /64 is one address; 0: no bound
  uint32_t max_header_bytes = 16U << 10;        // 431; also of a chunked body's framing, 400
  uint64_t max_body_bytes = uint64_t{8} << 20;  // 413
  // What all connections together may hold, beside a small part each: bodies until they have been
  // read, and answers until they are sent; 503.
  uint64_t max_total_body_bytes = uint64_t{256} << 20;
  size_t max_stream_backlog_bytes = size_t{1} << 20;  // unsent; then the client is too slow
  OriginRules origins;
  std::chrono::milliseconds header_timeout{10'000};  // from a request's first byte
  std::chrono::milliseconds body_timeout{60'000};    // from the end of the header
  std::chrono::milliseconds idle_timeout{75'000};    // between requests
  std::chrono::milliseconds write_timeout{30'000};   // for 16 KiB to be accepted, or what is left
};

}  // namespace thermocline
