#include "server/cli/command_line.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "server/api/kv_names.h"

namespace thermocline {
namespace {

std::variant<CommandLine, int> Parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "thermocline");
  return ParseCommandLine(static_cast<int>(arguments.size()), arguments.data(), "1.2.3");
}

EngineConfig ParseEngine(const std::vector<const char*>& arguments) {
  return std::get<ServeOptions>(std::get<CommandLine>(Parse(arguments)).command).engine;
}

TEST(CommandLine, KvOptionsAreChosenByName) {
  const EngineConfig defaults = ParseEngine({"serve", "m.gguf"});
  EXPECT_EQ(defaults.kv_policy, KvPolicy::kAdaptive);
  EXPECT_EQ(defaults.kv_fidelity, KvFidelity::kBalanced);
  EXPECT_EQ(defaults.kv_budget, 0);
  const EngineConfig chosen = ParseEngine(
      {"serve", "m.gguf", "--kv-policy", "cold", "--kv-fidelity", "max", "--kv-budget", "0.25"});
  EXPECT_EQ(chosen.kv_policy, KvPolicy::kCold);
  EXPECT_EQ(chosen.kv_fidelity, KvFidelity::kMax);
  EXPECT_EQ(chosen.kv_budget, 0.25);
}

TEST(CommandLine, ABaselineEvictsBesideHotPages) {
  const std::pair<const char*, Baseline> names[] = {
      {"streaming", Baseline::kStreaming}, {"h2o", Baseline::kH2o}, {"snapkv", Baseline::kSnapKv}};
  for (const auto& [name, baseline] : names) {
    const EngineConfig config =
        ParseEngine({"serve", "m.gguf", "--kv-policy", name, "--kv-budget", "0.25"});
    EXPECT_EQ(config.kv_policy, KvPolicy::kHot);
    EXPECT_EQ(config.baseline, baseline);
    EXPECT_EQ(NameOf(kKvPolicyNames, {config.kv_policy, config.baseline}), name);
  }
  EXPECT_EQ(ParseEngine({"serve", "m.gguf"}).baseline, std::nullopt);
  EXPECT_EQ(ParseEngine({"serve", "m.gguf", "--kv-policy", "hot"}).baseline, std::nullopt);
  EXPECT_TRUE(std::holds_alternative<int>(Parse({"serve", "m.gguf", "--kv-policy", "lru"})));
}

TEST(CommandLine, InstructionsOfTheKernelsAreChosenByName) {
  EXPECT_FALSE(ParseEngine({"serve", "m.gguf"}).cpu_isa.has_value());
  for (const IsaLevel level : kIsaLevels) {
    EXPECT_EQ(ParseEngine({"serve", "m.gguf", "--cpu-isa", IsaName(level)}).cpu_isa, level);
  }
  EXPECT_TRUE(std::holds_alternative<int>(Parse({"serve", "m.gguf", "--cpu-isa", "sse9"})));
}

TEST(CommandLine, PromptTokensBesideDecodingAreBoundedUnlessAskedNotTo) {
  EXPECT_GT(ParseEngine({"serve", "m.gguf"}).max_num_prefill_tokens_while_decoding, 0);
  const EngineConfig none =
      ParseEngine({"serve", "m.gguf", "--max-num-prefill-tokens-while-decoding", "0"});
  EXPECT_EQ(none.max_num_prefill_tokens_while_decoding, 0);
  EXPECT_TRUE(ValidateEngineConfig(none).ok());
  EXPECT_FALSE(ValidateEngineConfig({.max_num_prefill_tokens_while_decoding = -1}).ok());
}

TEST(CommandLine, HelpNamesTheChoicesAndTheDefault) {
  testing::internal::CaptureStdout();
  EXPECT_EQ(std::get<int>(Parse({"serve", "--help"})), 0);
  const std::string help = testing::internal::GetCapturedStdout();
  EXPECT_NE(help.find("{adaptive,hot,warm,cold"), std::string::npos) << help;
  EXPECT_NE(help.find("{exact,high,balanced,max}=balanced"), std::string::npos) << help;
}

TEST(CommandLine, AWrongChoiceIsAnsweredWithTheRightOnes) {
  testing::internal::CaptureStderr();
  EXPECT_EQ(std::get<int>(Parse({"serve", "m.gguf", "--kv-policy", "tepid"})), 2);
  const std::string error = testing::internal::GetCapturedStderr();
  EXPECT_NE(error.find("tepid not in {adaptive,hot,warm,cold"), std::string::npos) << error;
}

class RefusedFlags : public testing::TestWithParam<std::vector<const char*>> {};

TEST_P(RefusedFlags, EndWithAMessage) {
  std::vector<const char*> arguments = {"serve", "m.gguf"};
  arguments.insert(arguments.end(), GetParam().begin(), GetParam().end());
  testing::internal::CaptureStderr();
  const auto parsed = Parse(arguments);
  const std::string error = testing::internal::GetCapturedStderr();
  ASSERT_TRUE(std::holds_alternative<int>(parsed));
  EXPECT_EQ(std::get<int>(parsed), 2);
  EXPECT_NE(error.find(GetParam().front()), std::string::npos) << error;
}

using Flags = std::vector<const char*>;
INSTANTIATE_TEST_SUITE_P(
    CommandLine, RefusedFlags,
    testing::Values(
        Flags{"--host", ""}, Flags{"--host", " "}, Flags{"--port", "nan"}, Flags{"--port", "-1"},
        Flags{"--kv-budget", "nan"}, Flags{"--kv-budget", "inf"}, Flags{"--kv-budget", "-0.1"},
        Flags{"--kv-budget", "1.1"}, Flags{"--kv-budget", "0.5x"}, Flags{"--kv-budget", ""},
        Flags{"--shutdown-timeout", "nan"}, Flags{"--shutdown-timeout", "-1"},
        Flags{"--shutdown-timeout", "1e300"}, Flags{"--header-timeout", "0"},
        Flags{"--idle-timeout", "-nan"}, Flags{"--write-timeout", "inf"},
        Flags{"--kv-cache-memory-bytes", "nan"}, Flags{"--kv-cache-memory-bytes", "-1"},
        Flags{"--kv-cache-memory-bytes", "1000T"}, Flags{"--kv-cache-memory-bytes", "1e18"},
        Flags{"--kv-store-disk-bytes", "inf"}, Flags{"--kv-store-memory-bytes", "99999T"},
        Flags{"--max-body-bytes", "0"}, Flags{"--max-body-bytes", "2G"},
        Flags{"--max-num-queued-reqs", "-1"}, Flags{"--max-num-seqs", "1e9"},
        Flags{"--max-model-len", "99999999999999999999"}, Flags{"--max-connections", "0"},
        Flags{"--max-connections-per-address", "-1"}, Flags{"--threads", "-1"},
        Flags{"--allowed-origins", "a.example"}, Flags{"--allowed-hosts", "http://a.example"},
        Flags{"--served-model-name", ""}));

TEST(CommandLine, TheEnvironmentIsCheckedAsTheFlagsAre) {
  ASSERT_EQ(setenv("THERMOCLINE_KV_BUDGET", "nan", 1), 0);
  testing::internal::CaptureStderr();
  EXPECT_TRUE(std::holds_alternative<int>(Parse({"serve", "m.gguf"})));
  EXPECT_FALSE(testing::internal::GetCapturedStderr().empty());
  ASSERT_EQ(setenv("THERMOCLINE_KV_BUDGET", "0.5", 1), 0);
  EXPECT_EQ(ParseEngine({"serve", "m.gguf"}).kv_budget, 0.5);
  unsetenv("THERMOCLINE_KV_BUDGET");
}

HttpOptions ParseHttp(const std::vector<const char*>& arguments) {
  return std::get<ServeOptions>(std::get<CommandLine>(Parse(arguments)).command).http;
}

TEST(CommandLine, OneAddressHasThreeQuartersOfTheConnectionsUnlessItIsSaid) {
  EXPECT_EQ(ParseHttp({"serve", "m"}).max_connections_per_address, 768);
  EXPECT_EQ(ParseHttp({"serve", "m", "--max-connections", "3"}).max_connections_per_address, 3);
  EXPECT_EQ(
      ParseHttp({"serve", "m", "--max-connections-per-address", "0"}).max_connections_per_address,
      0);
}

TEST(CommandLine, SecondsMayHaveParts) {
  EXPECT_EQ(ParseHttp({"serve", "m", "--header-timeout", "0.25"}).header_timeout.count(), 250);
  const auto parsed = Parse({"serve", "m", "--shutdown-timeout", "0"});
  const auto& serve = std::get<ServeOptions>(std::get<CommandLine>(parsed).command);
  EXPECT_EQ(serve.shutdown_timeout.count(), 0);
}

}  // namespace
}  // namespace thermocline
