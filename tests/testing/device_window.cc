#include "tests/testing/device_window.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace thermocline {
namespace {

constexpr size_t kWindowPage = 4096;

// Addresses that nothing else is given.
std::byte* ReserveAddresses(void* at, size_t bytes) {
  void* mapping =
      mmap(at, bytes, PROT_NONE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (at == nullptr ? 0 : MAP_FIXED), -1, 0);
  CHECK(mapping != MAP_FAILED);
  return static_cast<std::byte*>(mapping);
}

void FreeInWindow(std::byte* data, size_t bytes) {
  ReserveAddresses(data, bytes);
  ReserveAddresses(data + DeviceWindow::kBytes, bytes);
}

}  // namespace

DeviceWindow::DeviceWindow() : base_(ReserveAddresses(nullptr, 2 * kBytes)) {}

DeviceWindow::~DeviceWindow() { munmap(base_, 2 * kBytes); }

Result<Buffer> DeviceWindow::Allocate(size_t bytes) {
  if (bytes == 0) {
    return Buffer();
  }
  const size_t rounded = (bytes + kWindowPage - 1) / kWindowPage * kWindowPage;
  const size_t offset =
      used_.fetch_add(rounded + kWindowPage);  // a page of nothing between buffers
  if (offset + rounded > kBytes) {
    return ResourceExhausted("{} bytes do not fit the window of the device", bytes);
  }
  std::byte* data = base_ + offset;
  const int file = memfd_create("device", MFD_CLOEXEC);
  if (file < 0 || ftruncate(file, static_cast<off_t>(rounded)) != 0) {
    return ResourceExhausted("{} bytes of device memory: {}", bytes, std::strerror(errno));
  }
  const auto map = [&](std::byte* at, int access) {
    return mmap(at, rounded, access, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, file, 0) != MAP_FAILED;
  };
  const bool ok = map(data, PROT_NONE) && map(data + kBytes, PROT_READ | PROT_WRITE);
  close(file);
  CHECK(ok);
  return Buffer(data, bytes, FreeInWindow);
}

}  // namespace thermocline
