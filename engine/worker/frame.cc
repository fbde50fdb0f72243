#include "engine/worker/frame.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <limits>

namespace thermocline {
namespace {

constexpr int kPollMilliseconds = 5;
// Memory is taken as bytes come, so that a header alone reserves nothing.
constexpr size_t kReadBytes = size_t{1} << 20;

struct Header {
  uint32_t num_bytes = 0;
  uint16_t code = 0;
  uint16_t last = 0;
};

// Waits until `fd` is ready for `events`.
FrameResult Wait(int fd, int16_t events, const KeepWaiting& keep_waiting) {
  pollfd entry{.fd = fd, .events = events, .revents = 0};
  while (true) {
    const int ready = poll(&entry, 1, kPollMilliseconds);
    if (ready > 0) {
      return FrameResult::kDone;
    }
    if (ready < 0 && errno != EINTR) {
      return FrameResult::kClosed;
    }
    if (!keep_waiting()) {
      return FrameResult::kGivenUp;
    }
  }
}

FrameResult Receive(int fd, char* to, size_t num_bytes, const KeepWaiting& keep_waiting) {
  while (num_bytes > 0) {
    const ssize_t got = recv(fd, to, num_bytes, MSG_DONTWAIT);
    if (got > 0) {
      to += got;
      num_bytes -= static_cast<size_t>(got);
    } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
      return FrameResult::kClosed;
    } else if (const FrameResult waited = Wait(fd, POLLIN, keep_waiting);
               waited != FrameResult::kDone) {
      return waited;
    }
  }
  return FrameResult::kDone;
}

}  // namespace

FrameResult SendFrame(int fd, StatusCode code, bool last, std::string_view body,
                      const KeepWaiting& keep_waiting) {
  if (body.size() > std::numeric_limits<uint32_t>::max()) {
    return FrameResult::kClosed;
  }
  Header header{.num_bytes = static_cast<uint32_t>(body.size()),
                .code = static_cast<uint16_t>(code),
                .last = static_cast<uint16_t>(last ? 1 : 0)};
  size_t num_sent = 0;  // bytes of header and body
  while (num_sent < sizeof(header) + body.size()) {
    std::array<iovec, 2> parts{};
    size_t num_parts = 0;
    if (num_sent < sizeof(header)) {
      parts[num_parts++] = {.iov_base = reinterpret_cast<char*>(&header) + num_sent,
                            .iov_len = sizeof(header) - num_sent};
    }
    const size_t body_sent = num_sent > sizeof(header) ? num_sent - sizeof(header) : 0;
    parts[num_parts++] = {.iov_base = const_cast<char*>(body.data()) + body_sent,
                          .iov_len = body.size() - body_sent};
    msghdr message{};
    message.msg_iov = parts.data();
    message.msg_iovlen = num_parts;
    const ssize_t sent = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent >= 0) {
      num_sent += static_cast<size_t>(sent);
    } else if (errno != EAGAIN && errno != EINTR) {
      return FrameResult::kClosed;
    } else if (const FrameResult waited = Wait(fd, POLLOUT, keep_waiting);
               waited != FrameResult::kDone) {
      return waited;
    }
  }
  return FrameResult::kDone;
}

FrameResult ReceiveFrame(int fd, size_t max_bytes, Frame& frame, const KeepWaiting& keep_waiting) {
  std::array<char, sizeof(Header)> bytes{};
  if (const FrameResult got = Receive(fd, bytes.data(), bytes.size(), keep_waiting);
      got != FrameResult::kDone) {
    return got;
  }
  Header header;
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.num_bytes > max_bytes ||
      header.code > static_cast<uint16_t>(StatusCode::kUnauthenticated)) {
    return FrameResult::kClosed;
  }
  frame.code = static_cast<StatusCode>(header.code);
  frame.last = header.last != 0;
  frame.body.clear();
  while (frame.body.size() < header.num_bytes) {
    const size_t begin = frame.body.size();
    frame.body.resize(std::min(begin + kReadBytes, size_t{header.num_bytes}));
    if (const FrameResult got =
            Receive(fd, frame.body.data() + begin, frame.body.size() - begin, keep_waiting);
        got != FrameResult::kDone) {
      return got;
    }
  }
  return FrameResult::kDone;
}

}  // namespace thermocline
