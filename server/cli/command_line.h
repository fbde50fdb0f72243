#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "engine/engine_config.h"
#include "server/http/http_options.h"

namespace thermocline {

struct ServeOptions {
  EngineConfig engine;
  HttpOptions http;
  std::vector<std::string> served_model_names;  // empty: the file's name
  std::chrono::milliseconds shutdown_timeout{30'000};
};

struct ChatOptions {
  EngineConfig engine;
  std::string system_prompt;
  float temperature = 0.7F;
  float top_p = 0.95F;
  std::optional<uint64_t> seed;
  int max_tokens = 0;  // that one answer may have; 0: what the context holds
};

struct CalibrateOptions {
  EngineConfig engine;
};

struct KvOptions {
  enum class Action { kList, kInspect, kRemove };
  Action action = Action::kList;
  std::string directory;
  std::string session;  // empty: none was named
  std::string tenant = "default";
  std::string identity;     // first digits of one; empty: none was named
  bool remove_all = false;  // whatever the directory has
  bool json = false;
};

struct CommandLine {
  std::variant<ServeOptions, ChatOptions, CalibrateOptions, KvOptions> command;
  std::string log_level = "info";
  std::string chat_template_path;  // empty: the model's own
};

// Flags are vLLM's where they mean the same, with llama.cpp's short ones. What the command line
// does not say is taken from THERMOCLINE_<FLAG> in the environment, then from the defaults; but for
// kv, which must not remove what nobody named. An int
// is the exit code when there is nothing to run: help was printed, or what is wrong.
std::variant<CommandLine, int> ParseCommandLine(int argc, const char* const* argv,
                                                const std::string& version);

}  // namespace thermocline
