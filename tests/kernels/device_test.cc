// What every device promises, and that the device which tests of the engine run on would notice an
// engine that breaks it.

#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/cpu/cpu_device.h"
#include "kernels/make_device.h"
#include "tests/testing/delayed_device.h"
#include "tests/testing/ops_rig.h"

namespace thermocline {
namespace {

std::unique_ptr<Device> Delayed() {
  return std::make_unique<DelayedDevice>(CpuDevice::Create({}).value());
}

TEST(MakeDevice, MakesTheCpuAndRefusesWhatThisBuildOrMachineLacks) {
  const auto device = MakeDevice({.num_threads = 2}).value();
  EXPECT_TRUE(device->IsHostMemory());
  EXPECT_TRUE(device->ops().is_batch_invariant());
  EXPECT_EQ(device->ops().max_moves_at_once(), 1);
  EXPECT_GT(device->AvailableBytes(), uint64_t{1} << 20);
  EXPECT_EQ(MakeDevice({.kind = DeviceKind::kCuda}).status().code(), StatusCode::kUnimplemented);
  EXPECT_EQ(MakeDevice({.index = 1}).status().code(), StatusCode::kInvalidArgument);
  for (const IsaLevel isa : kIsaLevels) {
    EXPECT_EQ(MakeDevice({.cpu_isa = isa}).ok(), CpuHas(isa)) << IsaName(isa);
  }
}

TEST(Device, CopiesInOrderBetweenAnyPlacements) {
  for (const bool is_delayed : {false, true}) {
    const std::unique_ptr<Device> device =
        is_delayed ? Delayed() : std::unique_ptr<Device>(CpuDevice::Create({}).value());
    const Buffer a = device->Allocate(64, Placement::kDevice).value();
    const Buffer b = device->Allocate(5000, Placement::kDevice).value();
    const Buffer pinned = device->Allocate(64, Placement::kHost).value();
    std::array<std::byte, 64> got{};
    got.fill(std::byte{9});
    for (const StreamPriority priority : {StreamPriority::kCompute, StreamPriority::kBackground}) {
      const auto stream = device->NewStream(priority);
      std::memset(pinned.data(), 7, 64);
      stream->Copy(a.data(), pinned.data(), 64);
      stream->Copy(b.data() + 4900, a.data(), 64);
      stream->Copy(b.data() + 4910, b.data(), 10);  // zero, as it was allocated
      stream->Copy(got.data(), b.data() + 4900, 64);
      ASSERT_TRUE(stream->Sync().ok());
      EXPECT_EQ(got[9], std::byte{7});
      EXPECT_EQ(got[10], std::byte{0});
      EXPECT_EQ(got[20], std::byte{7});
    }
  }
}

TEST(DelayedDevice, RunsNothingBeforeSync) {
  OpsRig rig(Delayed());
  const Tensor x = rig.Upload({1, 2, 3, 4}, {2, 2});
  const Tensor out = rig.Upload({0, 0}, {1, 2});
  const std::vector<int32_t> rows = {1};
  std::vector<float> got(2);
  rig.ops().GatherRows(x, rows, out, rig.stream());
  rig.stream().Copy(std::as_writable_bytes(std::span(got)).data(),
                    static_cast<const std::byte*>(out.data()), 8);
  EXPECT_EQ(got, (std::vector<float>{0, 0}));
  rig.Sync();
  EXPECT_EQ(got, (std::vector<float>{3, 4}));
}

TEST(DelayedDevice, RecordedWorkRunsWhenItIsReplayed) {
  OpsRig rig(Delayed());
  const Tensor x = rig.Upload({1, 10}, {1, 2});
  const Tensor bias = rig.Upload({1, 2}, {2});
  const auto recording = rig.stream().Record([&] { rig.ops().AddBias(x, bias, rig.stream()); });
  ASSERT_NE(recording, nullptr);
  EXPECT_EQ(rig.Download(x), (std::vector<float>{1, 10}));
  rig.stream().Replay(*recording);
  rig.stream().Replay(*recording);
  EXPECT_EQ(rig.Download(x), (std::vector<float>{3, 14}));
}

TEST(DelayedDeviceDeathTest, TheHostCannotTouchItsMemory) {
  const auto device = Delayed();
  const Buffer buffer = device->Allocate(4096, Placement::kDevice).value();
  volatile std::byte* byte = buffer.data();
  EXPECT_DEATH(*byte = std::byte{1}, "");
  EXPECT_DEATH(std::exit(static_cast<int>(*byte)), "");
}

TEST(DelayedDeviceDeathTest, HostMemoryIsNoTensor) {
  OpsRig rig(Delayed());
  std::vector<float> x = {1, 2};
  const Tensor bias = rig.Upload({1, 2}, {2});
  EXPECT_DEATH(rig.ops().AddBias(Tensor(x.data(), {1, 2}), bias, rig.stream()), "CHECK");
}

void ChangeSourceBeforeSync() {
  const auto device = Delayed();
  const auto stream = device->NewStream();
  const Buffer buffer = device->Allocate(4, Placement::kDevice).value();
  std::array<std::byte, 4> bytes{};
  stream->Copy(buffer.data(), bytes.data(), 4);
  bytes[0] = std::byte{1};
  (void)stream->Sync();
}

TEST(DelayedDeviceDeathTest, ASourceStaysAsItIsUntilSync) {
  EXPECT_DEATH(ChangeSourceBeforeSync(), "CHECK");
}

}  // namespace
}  // namespace thermocline
