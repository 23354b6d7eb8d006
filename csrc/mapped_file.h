// SPDX-License-Identifier: Apache-2.0
// A file as read-only memory. Plain C++17 on POSIX.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <string>
#include <system_error>

namespace megacpt {

// The descriptor is closed at once, so that a thousand sources do not hold two thousand of them
// (Python's mmap keeps a duplicate of its own, and the usual limit is 1,024).
class MappedFile {
 public:
  // Scattered: whoever touches a page wants that page alone. Otherwise the system reads as much as
  // it reads ahead, up to megabytes, around each.
  MappedFile(const std::string& path, bool scattered) {
    const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) throw failure(errno);
    const int error = map(descriptor, scattered);
    close(descriptor);
    if (error != 0) throw failure(error);
  }

  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  ~MappedFile() {
    if (data_ != nullptr) munmap(data_, size_);
  }

  const void* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  static std::system_error failure(int error) { return {error, std::generic_category()}; }

  // Returns errno, or 0.
  int map(int descriptor, bool scattered) {
    struct stat status;
    if (fstat(descriptor, &status) != 0) return errno;
    if (S_ISDIR(status.st_mode)) return EISDIR;
    size_ = static_cast<std::size_t>(status.st_size);
    if (size_ == 0) return 0;
    void* data = mmap(nullptr, size_, PROT_READ, MAP_SHARED, descriptor, 0);
    if (data == MAP_FAILED) return errno;
    if (scattered) madvise(data, size_, MADV_RANDOM);
    data_ = data;
    return 0;
  }

  void* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace megacpt
