#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace thermocline {

class HttpSession;

// The open connections of one server, and how many of them are answering. Thread-safe.
class ConnectionTable {
 public:
  void Add(const std::shared_ptr<HttpSession>& session);
  void Remove(HttpSession* session);
  size_t size() const;
  std::vector<std::shared_ptr<HttpSession>> Sessions() const;

  // A session begins and ends an answer.
  void BeginAnswer();
  void EndAnswer();

  // From now on answers close their connection; `on_idle` is called once, on any thread, when none
  // is under way (perhaps at once).
  void Drain(std::function<void()> on_idle);
  bool draining() const { return draining_; }

  // The I/O threads are going: nothing may be posted any more.
  void Stop() { stopped_ = true; }
  bool stopped() const { return stopped_; }

  // Body bytes held by all connections. False: `limit` would be passed, nothing is reserved.
  bool ReserveBody(uint64_t bytes, uint64_t limit);
  void ReleaseBody(uint64_t bytes) { body_bytes_ -= bytes; }

 private:
  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::unordered_map<HttpSession*, std::weak_ptr<HttpSession>> sessions_;
  int num_answering_ = 0;
  std::function<void()> on_idle_;

  std::atomic<bool> draining_{false};
  std::atomic<bool> stopped_{false};
  std::atomic<uint64_t> body_bytes_{0};
};

}  // namespace thermocline
