#include "server/cli/load_report.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "server/cli/byte_size.h"

namespace thermocline {
namespace {

constexpr int kBarWidth = 32;
constexpr std::chrono::seconds kLogPeriod{10};

}  // namespace

void LoadProgress::Report(std::string_view phase, double fraction) {
  const int percent = static_cast<int>(std::clamp(fraction, 0.0, 1.0) * 100);
  const bool new_phase = phase != phase_;
  if (!new_phase && percent == drawn_percent_) {
    return;
  }
  phase_ = phase;
  drawn_percent_ = percent;
  if (!terminal_) {
    const auto now = std::chrono::steady_clock::now();
    if (new_phase) {
      spdlog::info("loading: {}", phase);
    } else if (now - told_at_ >= kLogPeriod) {
      spdlog::info("loading: {}, {} %", phase, percent);
    } else {
      return;
    }
    told_at_ = now;
    return;
  }
  const int filled = percent * kBarWidth / 100;
  fmt::print(stderr, "\r\x1b[K{:<20} [{:#<{}}{:.<{}}] {:3d}%", phase, "", filled, "",
             kBarWidth - filled, percent);
  std::fflush(stderr);
}

void LoadProgress::Finish() {
  if (terminal_ && !phase_.empty()) {
    fmt::print(stderr, "\r\x1b[K");
    std::fflush(stderr);
  }
}

Result<std::unique_ptr<Engine>> LoadEngine(EngineConfig config) {
  LoadProgress progress(isatty(STDERR_FILENO) == 1);
  config.on_progress = [&progress](std::string_view phase, double fraction) {
    progress.Report(phase, fraction);
  };
  config.on_notice = [](const std::string& message) { spdlog::warn("{}", message); };
  Result<std::unique_ptr<Engine>> engine = Engine::Create(config);
  progress.Finish();
  return engine;
}

std::string FormatBudget(const MemoryBudget& budget) {
  const uint64_t num_pages = budget.page_bytes > 0 ? budget.kv_arena_bytes / budget.page_bytes : 0;
  const double sequences = budget.max_model_len > 0
                               ? static_cast<double>(budget.num_kv_tokens) / budget.max_model_len
                               : 0;
  std::string table;
  const auto add = [&table](std::string_view name, const std::string& value) {
    table += fmt::format("  {:<22}{:>14}\n", name, value);
  };
  add("weights", FormatByteSize(budget.weight_bytes));
  add("KV cache", FormatByteSize(budget.kv_arena_bytes));
  add("  page", FormatByteSize(budget.page_bytes));
  add("  pages", fmt::format("{}", num_pages));
  add("  tokens", fmt::format("{}", budget.num_kv_tokens));
  if (budget.cold_kl > 0) {
    add("  cold page", FormatByteSize(budget.cold_page_bytes));
    add("  all cold, mean KL", fmt::format("{:.4f}", budget.cold_kl));
  }
  add("max model length", fmt::format("{}", budget.max_model_len));
  add("full-length sequences", fmt::format("{:.1f}", sequences));
  return table;
}

}  // namespace thermocline
