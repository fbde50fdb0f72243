#include "kernels/cuda/simt/host_grid.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>
#include <random>

#include "kernels/base/check.h"
#include "kernels/cuda/simt/host_thread.h"

// Switch: puts what a function must keep (System V, x86-64) on this stack and goes on on the other.
// Begin: where a new fiber's first switch returns to; %r12 is the grid, %r13 FiberMain.
asm(R"(
.text
thermocline_switch_stack:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
thermocline_begin_fiber:
  movq %r12, %rdi
  callq *%r13
  ud2
)");
extern "C" void thermocline_switch_stack(void** from, void* to);
extern "C" void thermocline_begin_fiber();

namespace thermocline {
namespace {

// A kernel's frame is some KiB; a sanitizer makes it many times as large.
constexpr size_t kStackBytes = size_t{512} << 10;
constexpr size_t kAlignment = 128;
constexpr uint64_t kStackEnd = 0x5ca1ab1e0ddba11;

std::string LaneList(uint32_t lanes) {
  std::vector<int> list;
  for (int lane = 0; lane < 32; ++lane) {
    if ((lanes >> lane & 1) != 0) {
      list.push_back(lane);
    }
  }
  return fmt::format("{}", fmt::join(list, " "));
}

}  // namespace

HostGrid::HostGrid(int num_blocks, int num_threads, uint32_t shared_bytes, GridOrder order)
    : num_threads_(num_threads),
      shared_bytes_(shared_bytes),
      block_order_(static_cast<size_t>(num_blocks)),
      thread_order_(static_cast<size_t>(num_threads)),
      blocks_(std::min(kResidentBlocks, block_order_.size())),
      fibers_(blocks_.size() * thread_order_.size()) {
  CHECK(num_threads > 0 && num_threads % 32 == 0 && num_threads <= 1024);
  std::iota(block_order_.begin(), block_order_.end(), 0);
  std::iota(thread_order_.begin(), thread_order_.end(), size_t{0});
  if (order.kind == GridOrder::Kind::kReverse) {
    std::reverse(block_order_.begin(), block_order_.end());
    std::reverse(thread_order_.begin(), thread_order_.end());
  } else if (order.kind == GridOrder::Kind::kRandom) {
    std::mt19937 random(order.seed);
    std::shuffle(block_order_.begin(), block_order_.end(), random);
    std::shuffle(thread_order_.begin(), thread_order_.end(), random);
  }
  for (Block& block : blocks_) {
    block.memory.resize(shared_bytes + kAlignment);
    block.shared = block.memory.data() + kAlignment -
                   std::bit_cast<uintptr_t>(block.memory.data()) % kAlignment;
  }
  for (Fiber& fiber : fibers_) {
    fiber.memory = std::make_unique_for_overwrite<std::byte[]>(kStackBytes);
  }
}

void HostGrid::Run(const std::function<void(HostThread&)>& kernel) {
  kernel_ = &kernel;
  for (size_t first = 0; first < block_order_.size(); first += blocks_.size()) {
    RunBlocks(block_order_.data() + first, std::min(blocks_.size(), block_order_.size() - first));
  }
}

void HostGrid::RunBlocks(const int* blocks, size_t count) {
  for (size_t b = 0; b < count; ++b) {
    Block& block = blocks_[b];
    std::fill(block.memory.begin(), block.memory.end(), std::byte{kPoison});
    block.index = blocks[b];
    block.warps.assign(thread_order_.size() / 32, Warp());
    block.arrived = 0;
    block.num_done = 0;
  }
  // The blocks' threads in turns.
  num_left_ = count * thread_order_.size();
  for (size_t i = 0; i < fibers_.size(); ++i) {
    Fiber& fiber = fibers_[i];
    fiber.done = i >= num_left_;
    if (!fiber.done) {
      fiber.block = &blocks_[i % count];
      fiber.thread = static_cast<int>(thread_order_[i / count]);
      PrepareFiber(fiber);
    }
  }
  running_ = 0;
  num_idle_ = 0;
  thermocline_switch_stack(&main_stack_, fibers_[0].stack);
  for (size_t b = 0; b < count; ++b) {
    CheckEnd(blocks_[b]);
  }
}

void HostGrid::PrepareFiber(Fiber& fiber) {
  const uint64_t end_mark = kStackEnd;
  std::memcpy(fiber.memory.get(), &end_mark, sizeof(end_mark));
  const auto end = std::bit_cast<uintptr_t>(fiber.memory.get() + kStackBytes);
  auto* top = std::bit_cast<void**>(end / 16 * 16);
  void (*begin)() = &thermocline_begin_fiber;
  void (*main)(HostGrid*) = &HostGrid::FiberMain;
  top[-3] = std::bit_cast<void*>(begin);  // where the first switch returns to
  top[-6] = this;                         // %r12, of six registers
  top[-7] = std::bit_cast<void*>(main);   // %r13
  fiber.stack = top - 9;
}

void HostGrid::CheckEnd(const Block& block) const {
  for (size_t w = 0; w < block.warps.size(); ++w) {
    for (const Copy& copy : block.warps[w].copies) {
      if (copy.stage >= 0) {
        const std::string text =
            fmt::format("block {} warp {}: a copy into stage {} was begun and never ended",
                        block.index, w, copy.stage);
        CheckFailed(text.c_str(), __FILE__, __LINE__);
      }
    }
  }
  for (const Fiber& fiber : fibers_) {
    uint64_t end_mark = kStackEnd;
    if (fiber.block == &block) {
      std::memcpy(&end_mark, fiber.memory.get(), sizeof(end_mark));
    }
    CHECK(end_mark == kStackEnd);  // else a fiber's stack was too small
  }
}

void HostGrid::FiberMain(HostGrid* grid) {
  Fiber& fiber = grid->fibers_[grid->running_];
  // It lives as long as the fiber: another one begins where this one never leaves its scope.
  HostThread thread(*grid, *fiber.block, fiber.thread);
  (*grid->kernel_)(thread);
  fiber.done = true;
  ++fiber.block->num_done;
  grid->num_idle_ = 0;
  if (--grid->num_left_ == 0) {
    thermocline_switch_stack(&fiber.stack, grid->main_stack_);
  }
  grid->Yield();  // for ever
}

void HostGrid::Yield() {
  if (++num_idle_ > 2 * fibers_.size()) {  // all wait, and will for ever
    CheckFailed(WhoWaits().c_str(), __FILE__, __LINE__);
  }
  Fiber& from = fibers_[running_];
  do {
    running_ = running_ + 1 < fibers_.size() ? running_ + 1 : 0;
  } while (fibers_[running_].done);
  if (Fiber& to = fibers_[running_]; &from != &to) {
    thermocline_switch_stack(&from.stack, to.stack);
  }
}

std::string HostGrid::WhoWaits() const {
  std::string text = "threads wait for ever:";
  for (const Block& block : blocks_) {
    if (block.arrived > 0) {
      text += fmt::format(" SyncThreads of block {} is reached by {} threads of {};", block.index,
                          block.arrived, num_threads_);
    }
    for (size_t w = 0; w < block.warps.size(); ++w) {
      const Warp& warp = block.warps[w];
      if (warp.arrived > 0) {
        text += fmt::format(
            " lanes diverge in block {} warp {}: {} (line {}) is not reached by lanes {};",
            block.index, w, warp.what, warp.line, LaneList(~warp.waiting));
      }
    }
  }
  return text;
}

}  // namespace thermocline
