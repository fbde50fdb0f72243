#include "server/command_line.h"

#include <gtest/gtest.h>

#include <string>
#include <variant>
#include <vector>

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

}  // namespace
}  // namespace thermocline
