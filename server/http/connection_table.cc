#include "server/http/connection_table.h"

#include <boost/asio/ip/address.hpp>
#include <utility>

namespace thermocline {

std::string AddressKey(const boost::asio::ip::address& address) {
  using boost::asio::ip::v4_mapped;
  if (address.is_v4()) {
    return address.to_string();
  }
  const boost::asio::ip::address_v6 v6 = address.to_v6();
  if (v6.is_v4_mapped()) {
    return boost::asio::ip::make_address_v4(v4_mapped, v6).to_string();
  }
  const auto bytes = v6.to_bytes();
  return {bytes.begin(), bytes.begin() + 8};
}

void ConnectionTable::Add(const std::shared_ptr<HttpConnection>& connection,
                          const std::string& address) {
  const std::lock_guard lock(mutex_);
  connections_.emplace(connection.get(), connection);
  ++num_from_[address];
}

void ConnectionTable::Remove(HttpConnection* connection, const std::string& address) {
  const std::lock_guard lock(mutex_);
  if (connections_.erase(connection) == 0) {
    return;
  }
  if (const auto found = num_from_.find(address); --found->second == 0) {
    num_from_.erase(found);
  }
}

size_t ConnectionTable::num_from(const std::string& address) const {
  const std::lock_guard lock(mutex_);
  const auto found = num_from_.find(address);
  return found == num_from_.end() ? 0 : found->second;
}

size_t ConnectionTable::size() const {
  const std::lock_guard lock(mutex_);
  return connections_.size();
}

std::vector<std::shared_ptr<HttpConnection>> ConnectionTable::Connections() const {
  std::vector<std::shared_ptr<HttpConnection>> connections;
  const std::lock_guard lock(mutex_);
  for (const auto& [key, weak] : connections_) {
    if (std::shared_ptr<HttpConnection> connection = weak.lock()) {
      connections.push_back(std::move(connection));
    }
  }
  return connections;
}

void ConnectionTable::BeginAnswer() {
  const std::lock_guard lock(mutex_);
  ++num_answering_;
  ++num_answers_;
}

bool ConnectionTable::idle() const {
  const std::lock_guard lock(mutex_);
  return num_answering_ == 0;
}

uint64_t ConnectionTable::num_answers() const {
  const std::lock_guard lock(mutex_);
  return num_answers_;
}

void ConnectionTable::EndAnswer() {
  std::function<void()> on_idle;
  {
    const std::lock_guard lock(mutex_);
    if (--num_answering_ == 0) {
      on_idle = std::exchange(on_idle_, nullptr);
    }
  }
  if (on_idle) {
    on_idle();
  }
}

void ConnectionTable::Drain(std::function<void()> on_idle) {
  draining_ = true;
  {
    const std::lock_guard lock(mutex_);
    if (num_answering_ > 0) {
      on_idle_ = std::move(on_idle);
      return;
    }
  }
  on_idle();
}

}  // namespace thermocline
