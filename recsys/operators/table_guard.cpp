// Reading mapped files that are cut short, or on a disk that fails, without being killed by SIGBUS.
//
// A page that cannot be read raises SIGBUS in the thread that reads it, inside whatever kernel that is. The handler
// here puts pages of zeros in the place of the whole mapping and counts; who reads the count then knows that what
// was computed is worth nothing. Only ranges that were registered are replaced, and, while something is being loaded
// whose ranges are not known yet, single pages; any other SIGBUS goes to the handler that was there before.
//
// The handler may run in any thread at any instruction: it takes no lock and calls mmap, sigaction, sysconf and raise alone.

#include <atomic>
#include <cstdint>

#define EXPORTED extern "C" __attribute__((visibility("default")))

#if defined(__linux__)

#include <cerrno>
#include <csignal>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

namespace {

// A range is free if its begin is 0, and being filled or emptied if its end is 0.
struct Range {
  std::atomic<uintptr_t> begin, end;
  std::atomic<uint64_t> faults;
};

constexpr int kRanges = 16384;  // a release has one for each tensor of each graph; 400 kB, of which few are touched
Range ranges[kRanges];
std::atomic<int> used_ranges{0};  // those beyond were never filled

std::atomic<uint64_t> all_faults{0};
std::atomic<int> loading{0};
std::atomic<uint64_t> faults_in_loading{0};

// Handlers that ours lies over, the latest last. What is not ours goes to them, one at a time, each put in place and met
// by the instruction again: Python's faulthandler would raise the signal anew if it were called.
constexpr int kHandlers = 8;
struct sigaction before[kHandlers];
std::atomic<int> handlers{0};

bool put_zeros(uintptr_t begin, uintptr_t end) {
  void* const wanted = reinterpret_cast<void*>(begin);
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
  // Writable, as a runtime's private mapping is: a write must not end the process where a read does not.
  return mmap(wanted, end - begin, PROT_READ | PROT_WRITE, kFlags, -1, 0) == wanted;
}

bool replaced(uintptr_t address) {
  bool found = false;
  const int count = used_ranges.load(std::memory_order_acquire);
  for (int i = 0; i < count; ++i) {
    Range& range = ranges[i];
    const uintptr_t end = range.end.load(std::memory_order_acquire), begin = range.begin.load();
    if (!end || address < begin || address >= end) continue;
    // Counted before zeros can be read by any thread: who reads them finds the count.
    range.faults.fetch_add(1);
    all_faults.fetch_add(1);
    found = found || put_zeros(begin, end);
  }
  if (found || !loading.load()) return found;
  faults_in_loading.fetch_add(1);
  all_faults.fetch_add(1);
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  return put_zeros(address / page * page, address / page * page + page);
}

void on_bus_error(int number, siginfo_t* info, void* context) {
  const int kept = errno;
  // BUS_ADRERR: no such page, or it could not be read. BUS_MCEERR_*: memory is broken, which zeros do not mend.
  if (info->si_code == BUS_ADRERR && replaced(reinterpret_cast<uintptr_t>(info->si_addr))) {
    errno = kept;
    return;
  }
  struct sigaction next {};
  next.sa_handler = SIG_DFL;
  if (const int count = handlers.load()) {
    next = before[count - 1];
    handlers.store(count - 1);
  }
  sigaction(number, &next, nullptr);
  if (info->si_code <= 0) raise(number);  // sent by somebody: there is no instruction to run again
  errno = kept;
}

bool is_installed() {
  struct sigaction now;
  return sigaction(SIGBUS, nullptr, &now) == 0 && (now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_bus_error;
}

}  // namespace

// Install the handler, over whatever others installed since; 0 if it is there.
EXPORTED int recsys_guard_install() {
  if (is_installed()) return 0;
  const int count = handlers.load();
  struct sigaction ours {};
  ours.sa_sigaction = on_bus_error;
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
  sigemptyset(&ours.sa_mask);
  if (count == kHandlers || sigaction(SIGBUS, nullptr, &before[count]) != 0) return -1;
  handlers.store(count + 1);
  if (sigaction(SIGBUS, &ours, nullptr) == 0) return 0;
  handlers.store(count);
  return -1;
}

// Faults of all ranges so far, and while something was loaded; never falls.
EXPORTED uint64_t recsys_guard_all_faults() { return all_faults.load(); }

EXPORTED uint64_t recsys_guard_faults_in_loading() { return faults_in_loading.load(); }

// Begin (1) or end (-1) a time in which every page that cannot be read is replaced.
EXPORTED void recsys_guard_load(int delta) { loading.fetch_add(delta); }

// Register a mapping; its number, or -1 if there is no room.
EXPORTED int recsys_guard_add(uintptr_t begin, uintptr_t end) {
  for (int i = 0; i < kRanges; ++i) {
    uintptr_t free = 0;
    if (!ranges[i].begin.compare_exchange_strong(free, begin)) continue;
    ranges[i].faults.store(0);
    ranges[i].end.store(end, std::memory_order_release);
    int count = used_ranges.load();
    while (count <= i && !used_ranges.compare_exchange_weak(count, i + 1)) {
    }
    return i;
  }
  return -1;
}

EXPORTED void recsys_guard_remove(int number) {
  ranges[number].end.store(0);
  ranges[number].begin.store(0);
}

EXPORTED uint64_t recsys_guard_faults(int number) { return ranges[number].faults.load(); }

struct FileTimes {
  int64_t descriptor, size, modified_ns, changed_ns;
};

// Tests if all files are as they were, and no range had a fault since there were so many.
EXPORTED int recsys_guard_unchanged(const FileTimes* files, int count, uint64_t faults) {
  for (int i = 0; i < count; ++i) {
    struct stat now;
    if (fstat(static_cast<int>(files[i].descriptor), &now) != 0 || now.st_size != files[i].size ||
        now.st_mtim.tv_sec * 1000000000LL + now.st_mtim.tv_nsec != files[i].modified_ns ||
        now.st_ctim.tv_sec * 1000000000LL + now.st_ctim.tv_nsec != files[i].changed_ns)
      return 0;
  }
  return all_faults.load() == faults;
}

// Tests if facts about the file come from this machine's memory: of another machine's they may be waited for.
EXPORTED int recsys_guard_is_local(int descriptor) {
  struct statfs system;
  if (fstatfs(descriptor, &system) != 0) return 0;
  switch (static_cast<uint32_t>(system.f_type)) {
    case 0xEF53:      // ext2, 3, 4
    case 0x58465342:  // XFS
    case 0x9123683E:  // Btrfs
    case 0x01021994:  // tmpfs
    case 0xF2F52010:  // F2FS
    case 0x2FC12FC1:  // ZFS
      return 1;
    default:  // overlayfs, too, whose lower layer may be anything
      return 0;
  }
}

#else

EXPORTED int recsys_guard_install() { return -1; }

#endif
