#include "server/connection_table.h"

#include <utility>

namespace thermocline {

void ConnectionTable::Add(const std::shared_ptr<HttpSession>& session) {
  const std::lock_guard lock(mutex_);
  sessions_.emplace(session.get(), session);
}

void ConnectionTable::Remove(HttpSession* session) {
  const std::lock_guard lock(mutex_);
  sessions_.erase(session);
}

size_t ConnectionTable::size() const {
  const std::lock_guard lock(mutex_);
  return sessions_.size();
}

std::vector<std::shared_ptr<HttpSession>> ConnectionTable::Sessions() const {
  std::vector<std::shared_ptr<HttpSession>> sessions;
  const std::lock_guard lock(mutex_);
  for (const auto& [key, weak] : sessions_) {
    if (std::shared_ptr<HttpSession> session = weak.lock()) {
      sessions.push_back(std::move(session));
    }
  }
  return sessions;
}

void ConnectionTable::BeginAnswer() {
  const std::lock_guard lock(mutex_);
  ++num_answering_;
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

bool ConnectionTable::ReserveBody(uint64_t bytes, uint64_t limit) {
  if (body_bytes_.fetch_add(bytes) + bytes > limit) {
    body_bytes_ -= bytes;
    return false;
  }
  return true;
}

}  // namespace thermocline
