#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "server/http/http_connection.h"
#include "server/http/http_types.h"

namespace thermocline {

// The answer to one request of one connection. It keeps the connection alive: an answer may outlast
// every pending operation of its connection.
class ConnectionWriter final : public ResponseWriter {
 public:
  ConnectionWriter(std::shared_ptr<HttpConnection> connection, uint64_t answer);
  ~ConnectionWriter() override;
  ConnectionWriter(const ConnectionWriter&) = delete;
  ConnectionWriter& operator=(const ConnectionWriter&) = delete;

  void AddHeader(std::string name, std::string value) override;
  void Respond(HttpResponse response) override;
  void StartStream(HttpResponse head) override;
  void Write(std::string bytes) override;
  void EndStream() override;
  void OnDisconnect(std::function<void()> callback) override;
  void Post(std::function<void()> task) override;
  bool connected() const override;

 private:
  template <typename Task>
  void Run(Task task) noexcept;

  const std::shared_ptr<HttpConnection> connection_;
  const uint64_t answer_;
  std::atomic<bool> ended_{false};
};

}  // namespace thermocline
