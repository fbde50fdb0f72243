#include <spdlog/spdlog.h>
#include <sys/sysinfo.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <exception>
#include <fstream>
#include <iterator>
#include <string>
#include <variant>

#include "server/cli/byte_size.h"
#include "server/cli/calibrate_command.h"
#include "server/cli/chat_command.h"
#include "server/cli/command_line.h"
#include "server/cli/kv_command.h"
#include "server/cli/log.h"
#include "server/cli/serve_command.h"

namespace thermocline {
namespace {

constexpr char kVersion[] = THERMOCLINE_VERSION;

Result<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (file.bad() || !file.is_open()) {
    return NotFound("cannot read {}", path);
  }
  return text;
}

// Empty, so that nothing is kept, where there is no home.
std::string DefaultCalibrationDirectory() {
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value == nullptr ? "" : value);
  };
  std::string cache = variable("XDG_CACHE_HOME");
  if (cache.empty() && !variable("HOME").empty()) {
    cache = variable("HOME") + "/.cache";
  }
  return cache.empty() ? cache : cache + "/thermocline/calibration";
}

// Memory that this machine cannot have, however little else runs, is an error of the hand: it would
// be lent at first, and the process killed once it is used.
Status CheckMemory(const EngineConfig& engine) {
  struct sysinfo machine {};
  if (sysinfo(&machine) != 0) {
    return {};
  }
  const uint64_t most = (uint64_t{machine.totalram} + machine.totalswap) * machine.mem_unit;
  const uint64_t asked =
      engine.kv_cache_memory_bytes.value_or(0) + engine.kv_store_memory_bytes.value_or(0);
  if (asked > most) {
    return InvalidArgument(
        "--kv-cache-memory-bytes and --kv-store-memory-bytes ask for {}, but this machine has {}",
        FormatByteSize(asked), FormatByteSize(most));
  }
  return {};
}

// Every command but kv has one.
EngineConfig& EngineOf(CommandLine& line) {
  if (auto* serve = std::get_if<ServeOptions>(&line.command)) {
    return serve->engine;
  }
  if (auto* calibrate = std::get_if<CalibrateOptions>(&line.command)) {
    return calibrate->engine;
  }
  return std::get<ChatOptions>(line.command).engine;
}

int Main(int argc, const char* const* argv) {
  std::variant<CommandLine, int> parsed = ParseCommandLine(argc, argv, kVersion);
  if (const int* exit_code = std::get_if<int>(&parsed)) {
    return *exit_code;
  }
  auto& line = std::get<CommandLine>(parsed);
  StartLog(line.log_level);
  std::signal(SIGPIPE, SIG_IGN);  // a client that has gone is an error code
  std::signal(SIGXFSZ, SIG_IGN);  // and so is a file that may grow no more
  if (const auto* kv = std::get_if<KvOptions>(&line.command)) {
    return RunKv(*kv, std::time(nullptr));
  }
  EngineConfig& engine = EngineOf(line);
  if (engine.calibration_dir.empty()) {
    engine.calibration_dir = DefaultCalibrationDirectory();
  }
  if (const Status enough = CheckMemory(engine); !enough.ok()) {
    spdlog::error("{}", enough.message());
    return EXIT_FAILURE;
  }
  if (!line.chat_template_path.empty()) {
    Result<std::string> source = ReadFile(line.chat_template_path);
    if (!source.ok()) {
      spdlog::error("{}", source.status().message());
      return EXIT_FAILURE;
    }
    engine.chat_template = std::move(source).value();
  }
  if (const auto* serve = std::get_if<ServeOptions>(&line.command)) {
    return RunServe(*serve, kVersion);
  }
  if (const auto* calibrate = std::get_if<CalibrateOptions>(&line.command)) {
    return RunCalibrate(*calibrate);
  }
  return RunChat(std::get<ChatOptions>(line.command));
}

}  // namespace
}  // namespace thermocline

int main(int argc, char** argv) {
  try {
    return thermocline::Main(argc, argv);
  } catch (const std::exception& error) {  // a library's: out of memory, out of threads
    std::fprintf(stderr, "thermocline: %s\n", thermocline::EscapedForLog(error.what()).c_str());
    return EXIT_FAILURE;
  }
}
