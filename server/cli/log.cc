#include "server/cli/log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <mutex>
#include <utility>

#include "engine/text/utf8.h"

namespace thermocline {
namespace {

// `%*` of the pattern: the message.
class PrintableFlag final : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm& /*time*/,
              spdlog::memory_buf_t& out) override {
    const std::string text = EscapedForLog({message.payload.data(), message.payload.size()});
    out.append(text.data(), text.data() + text.size());
  }
  std::unique_ptr<spdlog::custom_flag_formatter> clone() const override {
    return std::make_unique<PrintableFlag>();
  }
};

class StderrSink final : public spdlog::sinks::base_sink<std::mutex> {
 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    writer_.Write({line.data(), line.size()});
  }
  void flush_() override {}

  LineWriter writer_{STDERR_FILENO};
};

// What turns the order of letters or starts a line, of what is not a control character.
bool IsDirectionOrLine(uint32_t code_point) {
  return code_point == 0x61c || (code_point >= 0x200e && code_point <= 0x200f) ||
         (code_point >= 0x2028 && code_point <= 0x202e) ||
         (code_point >= 0x2066 && code_point <= 0x2069);
}

}  // namespace

std::string EscapedForLog(std::string_view text) {
  std::string printable;
  printable.reserve(text.size());
  while (!text.empty()) {
    const Utf8Unit unit = DecodeUtf8(text);
    const std::string_view bytes = text.substr(0, unit.num_bytes);
    const auto code_point = static_cast<uint32_t>(unit.code_point);
    if (unit.kind != Utf8Kind::kValid) {
      for (const char byte : bytes) {
        printable += fmt::format("\\x{:02x}", static_cast<unsigned char>(byte));
      }
    } else if (code_point == '\n' || code_point == '\t' || code_point == '\r') {
      printable += code_point == '\n' ? "\\n" : code_point == '\t' ? "\\t" : "\\r";
    } else if (code_point < 0x20 || (code_point >= 0x7f && code_point < 0xa0)) {
      printable += fmt::format("\\x{:02x}", code_point);
    } else if (IsDirectionOrLine(code_point)) {
      printable += fmt::format("\\u{:04x}", code_point);
    } else {
      printable += bytes;
    }
    text.remove_prefix(unit.num_bytes);
  }
  return printable;
}

// A pipe is opened anew where that is possible: not to wait is a property of what was opened, and
// that is shared with the processes around this one.
LineWriter::LineWriter(int descriptor) : descriptor_(descriptor) {
  struct stat status {};
  if (fstat(descriptor, &status) != 0) {
    return;
  }
  is_socket_ = S_ISSOCK(status.st_mode);
  if (S_ISFIFO(status.st_mode)) {
    const int opened = open(fmt::format("/proc/self/fd/{}", descriptor).c_str(),
                            O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    if (opened >= 0) {
      descriptor_ = opened;
      owned_ = true;
    }
  }
}

LineWriter::~LineWriter() {
  if (owned_) {
    close(descriptor_);
  }
}

void LineWriter::Write(std::string_view line) {
  std::string cut;
  if (line.size() > kMaxLineBytes) {
    cut = line.substr(0, kMaxLineBytes - 4);
    cut += "...\n";
    line = cut;
  }
  if (num_dropped_ > 0 &&
      TryWrite(fmt::format("{} lines of the log were dropped: nobody read them\n", num_dropped_))) {
    num_dropped_ = 0;
  }
  if (num_dropped_ > 0 || !TryWrite(line)) {
    ++num_dropped_;
  }
}

bool LineWriter::TryWrite(std::string_view line) const {
  for (;;) {
    ssize_t written = -1;
    if (is_socket_) {
      written = send(descriptor_, line.data(), line.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    } else {
      pollfd ready{.fd = descriptor_, .events = POLLOUT, .revents = 0};
      if (poll(&ready, 1, 0) == 0) {
        return false;
      }
      written = write(descriptor_, line.data(), line.size());
    }
    if (written >= 0 || errno != EINTR) {
      // A reader that has gone will not come back: there is nothing to count for it.
      return written >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK);
    }
  }
}

void StartLog(const std::string& level) {
  spdlog::sink_ptr sink;
  if (isatty(STDERR_FILENO) == 1) {
    sink = std::make_shared<spdlog::sinks::stderr_color_sink_mt>();
  } else {
    sink = std::make_shared<StderrSink>();
  }
  auto logger = std::make_shared<spdlog::logger>("thermocline", std::move(sink));
  auto formatter = std::make_unique<spdlog::pattern_formatter>();
  formatter->add_flag<PrintableFlag>('*').set_pattern("%Y-%m-%d %H:%M:%S.%e %^%l%$ %*");
  logger->set_formatter(std::move(formatter));
  logger->set_level(spdlog::level::from_str(level));
  logger->set_error_handler([](const std::string& /*what*/) {});  // the library's own would wait
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace thermocline
