#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "server/http/byte_budget.h"

namespace boost::asio::ip {
class address;
}

namespace thermocline {

class HttpConnection;

// What counts as one address: of IPv6 the first 64 bits, for a host has all the rest.
std::string AddressKey(const boost::asio::ip::address& address);

// The open connections of one server, and how many of them are answering. Thread-safe.
class ConnectionTable {
 public:
  explicit ConnectionTable(uint64_t max_held_bytes) : held_bytes_(max_held_bytes) {}

  // `address`: where the client is, as AddressKey has it.
  void Add(const std::shared_ptr<HttpConnection>& connection, const std::string& address);
  void Remove(HttpConnection* connection, const std::string& address);
  size_t size() const;
  size_t num_from(const std::string& address) const;
  std::vector<std::shared_ptr<HttpConnection>> Connections() const;

  // A connection begins and ends an answer.
  void BeginAnswer();
  void EndAnswer();
  bool idle() const;             // no answer is under way
  uint64_t num_answers() const;  // that have begun

  // From now on answers close their connection; `on_idle` is called once, on any thread, when none
  // is under way (perhaps at once).
  void Drain(std::function<void()> on_idle);
  bool draining() const { return draining_; }

  // The I/O threads are going: nothing may be posted any more.
  void Stop() { stopped_ = true; }
  bool stopped() const { return stopped_; }

  // What bodies and answers may take together; each of them holds a share.
  ByteBudget& held_bytes() { return held_bytes_; }

 private:
  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::unordered_map<HttpConnection*, std::weak_ptr<HttpConnection>> connections_;
  std::unordered_map<std::string, size_t> num_from_;
  int num_answering_ = 0;
  uint64_t num_answers_ = 0;
  std::function<void()> on_idle_;

  std::atomic<bool> draining_{false};
  std::atomic<bool> stopped_{false};
  ByteBudget held_bytes_;
};

}  // namespace thermocline
