#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "kernels/base/status.h"

namespace thermocline {

// One message between a worker process and its parent, over a stream socket: a header, then a body.
struct Frame {
  StatusCode code = StatusCode::kOk;  // an answer's; if it is an error, the body is its message
  bool last = false;                  // the worker ends after this answer
  std::string body;
};

// Whether to go on waiting for the other side; asked some hundred times a second while waiting.
using KeepWaiting = std::function<bool()>;

enum class FrameResult { kDone, kGivenUp, kClosed };

// SendFrame and ReceiveFrame ask `keep_waiting` whenever they would block. After anything but kDone
// the stream is of no use.
FrameResult SendFrame(int fd, StatusCode code, bool last, std::string_view body,
                      const KeepWaiting& keep_waiting);
// A body of more than `max_bytes` counts as kClosed: it is not one of ours.
FrameResult ReceiveFrame(int fd, size_t max_bytes, Frame& frame, const KeepWaiting& keep_waiting);

}  // namespace thermocline
