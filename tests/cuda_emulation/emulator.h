// SPDX-License-Identifier: BSD-3-Clause
// Runs CUDA kernels on the CPU, for tests on machines without a GPU: right or wrong, not fast or slow.
//
// launch() runs the blocks of a grid one after another, in a random order. A block's threads are fibers;
// one runs until it meets a barrier or a warp's exchange, then a random one that may go on does. So what
// lacks a barrier, or depends on the order of threads or blocks, gives another result under some seed.
// Shared memory begins each block as 0xff bytes (NaN, -1). A deadlock, lanes that a collective waits for
// in vain, barriers met in different places and writes past dynamic shared memory are errors that say
// where. Not seen: races between two barriers in which every order gives the same numbers (count += 1),
// memory ordering between blocks, and blocks that wait for each other (they hang).
//
// A collective of your own, such as an emulated mma.sync, is written with exchange():
//
//     Fragment all[32];
//     cuda_emulation::exchange(0xffffffffu, mine, all);  // every lane gets the values of all lanes
#pragma once
#include <link.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <functional>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

struct uint3 { unsigned x, y, z; };
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// What a kernel reads of its place; set whenever a fiber goes on.
inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace cuda_emulation {

struct Site {  // where a fiber waits
  const char *what, *file;
  int line;
  bool operator==(const Site& other) const {
    return line == other.line && !std::strcmp(what, other.what) && !std::strcmp(file, other.file);
  }
  std::string text() const {
    return std::string(what) + " (" + (std::strrchr(file, '/') ? std::strrchr(file, '/') + 1 : file) + ":" +
           std::to_string(line) + ")";
  }
};

enum class State { ready, at_barrier, at_exchange, ended };

struct Fiber {
  ucontext_t context;
  uint3 thread;
  State state;
  Site site;             // of the wait
  int vote;              // at_barrier: the thread's, then the sum of all
  unsigned mask;         // at_exchange: the lanes that take part
  const char* sent;      //   this lane's value
  char* received;        //   32 of them
  std::size_t bytes;     //   of one
};

constexpr std::size_t STACK = 128 << 10, PAGE = 4096, MAX_SHARED = 227 << 10, GUARD = 1024;

class Emulator {
 public:
  void seed(unsigned value) { random_.seed(value); }
  void* dynamic_shared() { return shared_; }

  // Run a grid. The caller has checked its sizes.
  void run(dim3 grid, dim3 block, std::size_t shared_bytes, std::function<void()> kernel) {
    kernel_ = std::move(kernel);
    blockDim = block;
    gridDim = grid;
    shared_bytes_ = shared_bytes;
    std::vector<std::uint64_t> order(std::uint64_t{grid.x} * grid.y * grid.z);
    for (std::uint64_t i = 0; i < order.size(); ++i) order[i] = i;
    std::shuffle(order.begin(), order.end(), random_);
    for (std::uint64_t i : order) {
      const std::uint64_t row = i / grid.x;
      blockIdx = {unsigned(i % grid.x), unsigned(row % grid.y), unsigned(row / grid.y)};
      run_block(block.x * block.y * block.z);
    }
  }

  // Wait for all threads of the block that have not ended; returns the sum of their votes.
  int barrier(Site site, int vote) {
    Fiber& me = *current_;
    me.state = State::at_barrier;
    me.site = site;
    me.vote = vote;
    swapcontext(&me.context, &scheduler_);
    return me.vote;
  }

  // Wait for the lanes of a mask, and give each the values of all.
  void exchange(Site site, unsigned mask, const void* sent, void* received, std::size_t bytes) {
    Fiber& me = *current_;
    me.state = State::at_exchange;
    me.site = site;
    me.mask = mask;
    me.sent = static_cast<const char*>(sent);
    me.received = static_cast<char*>(received);
    me.bytes = bytes;
    std::memset(received, 0xff, 32 * bytes);  // lanes that do not take part
    if (!(mask >> lane(me) & 1)) throw std::runtime_error(place(me) + ": its mask lacks the caller's lane");
    swapcontext(&me.context, &scheduler_);
  }

  int lane() const { return lane(*current_); }

 private:
  void run_block(unsigned threads) {
    poison();
    if (fibers_.size() < threads) fibers_.resize(threads);
    while (stacks_.size() < threads) stacks_.push_back(new_stack());
    threads_ = alive_ = threads;
    waiting_ = 0;
    ready_.clear();
    for (unsigned i = 0; i < threads; ++i) {
      Fiber& fiber = fibers_[i];
      const unsigned row = i / blockDim.x;
      fiber.thread = {i % blockDim.x, row % blockDim.y, row / blockDim.y};
      fiber.state = State::ready;
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = stacks_[i] + PAGE;
      fiber.context.uc_stack.ss_size = STACK;
      fiber.context.uc_link = &scheduler_;
      makecontext(&fiber.context, &Emulator::begin, 0);
      ready_.push_back(i);
    }
    while (alive_ > 0) {
      if (ready_.empty()) throw std::runtime_error("deadlock in " + situation());
      std::swap(ready_[random_() % ready_.size()], ready_.back());
      const unsigned index = ready_.back();
      ready_.pop_back();
      current_ = &fibers_[index];
      threadIdx = current_->thread;
      swapcontext(&scheduler_, &current_->context);
      if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
      if (current_->state == State::at_exchange) complete_exchange(index);
      alive_ -= current_->state == State::ended;
      waiting_ += current_->state == State::at_barrier;
      if (waiting_ > 0 && waiting_ == alive_) complete_barrier();
    }
    for (std::size_t i = 0; i < GUARD; ++i) {
      if (shared_[shared_bytes_ + i] != char(0xff)) {
        throw std::runtime_error("a write past the " + std::to_string(shared_bytes_) +
                                 " bytes of dynamic shared memory in " + situation());
      }
    }
  }

  static void begin();  // of a fiber

  void complete_barrier() {
    const Site* site = nullptr;
    int votes = 0;
    for (unsigned i = 0; i < threads_; ++i) {
      if (fibers_[i].state != State::at_barrier) continue;
      if (site && !(*site == fibers_[i].site)) throw std::runtime_error("two barriers at once in " + situation());
      site = &fibers_[i].site;
      votes += fibers_[i].vote;
    }
    for (unsigned i = 0; i < threads_; ++i) {
      if (fibers_[i].state != State::at_barrier) continue;
      fibers_[i].vote = votes;
      go_on(i);
    }
    waiting_ = 0;
  }

  // If all lanes that the one at `index` waits for are there, hand out their values.
  void complete_exchange(unsigned index) {
    const Fiber me = fibers_[index];
    const unsigned first = index / 32 * 32;
    for (unsigned i = 0; i < 32; ++i) {
      if (!(me.mask >> i & 1)) continue;
      if (first + i >= threads_) throw std::runtime_error(place(me) + ": its mask names a lane past the block");
      const Fiber& other = fibers_[first + i];
      if (other.state != State::at_exchange || other.mask != me.mask || !(other.site == me.site)) return;
    }
    for (unsigned i = 0; i < 32; ++i) {
      if (!(me.mask >> i & 1)) continue;
      for (unsigned j = 0; j < 32; ++j) {
        if (!(me.mask >> j & 1)) continue;
        std::memcpy(fibers_[first + j].received + i * me.bytes, fibers_[first + i].sent, me.bytes);
      }
      go_on(first + i);
    }
  }

  void go_on(unsigned index) {
    fibers_[index].state = State::ready;
    ready_.push_back(index);
  }

  // Static shared variables are thread-local ones, so they are this library's block of such memory.
  void poison() {
    static thread_local char anchor = 0;  // the block exists once one of its variables was used
    struct Search { char *anchor, *begin; std::size_t size; } search = {&anchor, nullptr, 0};
    *const_cast<volatile char*>(search.anchor) = 0;
    dl_iterate_phdr([](dl_phdr_info* info, std::size_t, void* data) {
      auto* search = static_cast<Search*>(data);
      char* begin = static_cast<char*>(info->dlpi_tls_data);
      for (int i = 0; begin && i < info->dlpi_phnum; ++i) {
        const std::size_t size = info->dlpi_phdr[i].p_memsz;
        if (info->dlpi_phdr[i].p_type == PT_TLS && search->anchor >= begin && search->anchor < begin + size) {
          search->begin = begin;
          search->size = size;
        }
      }
      return 0;
    }, &search);
    if (!search.begin) throw std::logic_error("the emulator does not find its shared memory");
    std::memset(search.begin, 0xff, search.size);
    std::memset(shared_, 0xff, shared_bytes_ + GUARD);
  }

  static char* new_stack() {  // with a page below that must not be touched
    void* memory = mmap(nullptr, PAGE + STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    mprotect(memory, PAGE, PROT_NONE);
    return static_cast<char*>(memory);
  }

  static unsigned index(const Fiber& fiber) {
    return fiber.thread.x + blockDim.x * (fiber.thread.y + blockDim.y * fiber.thread.z);
  }
  static int lane(const Fiber& fiber) { return index(fiber) % 32; }

  static std::string place(const Fiber& fiber) {
    return "thread " + std::to_string(index(fiber)) + " at " + fiber.site.text();
  }

  // "block (0, 1, 0): 31 threads at __syncthreads (a.cu:7), the first is 1; 1 ended, the first is 0"
  std::string situation() const {
    std::map<std::string, std::pair<int, unsigned>> groups;
    for (unsigned i = threads_; i-- > 0;) {
      const Fiber& fiber = fibers_[i];
      std::string key = "ended";
      if (fiber.state == State::ready) key = "running";
      if (fiber.state == State::at_barrier) key = "at " + fiber.site.text();
      if (fiber.state == State::at_exchange) {
        char mask[16];
        std::snprintf(mask, sizeof mask, "%08x", fiber.mask);
        key = "at " + fiber.site.text() + " for the lanes " + mask;
      }
      groups[key].first += 1;
      groups[key].second = i;
    }
    std::string text = "block (" + std::to_string(blockIdx.x) + ", " + std::to_string(blockIdx.y) + ", " +
                       std::to_string(blockIdx.z) + "):";
    for (const auto& [key, group] : groups) {
      text += " " + std::to_string(group.first) + " threads " + key + ", the first is " +
              std::to_string(group.second) + ";";
    }
    text.pop_back();
    return text;
  }

  std::mt19937 random_;
  std::function<void()> kernel_;
  std::vector<Fiber> fibers_;  // of the block that runs, by thread
  std::vector<char*> stacks_;  // kept for later launches
  std::vector<unsigned> ready_;
  unsigned threads_ = 0, alive_ = 0, waiting_ = 0;
  ucontext_t scheduler_;
  Fiber* current_ = nullptr;
  std::exception_ptr error_;
  std::size_t shared_bytes_ = 0;
  alignas(1024) char shared_[MAX_SHARED + GUARD];
};

inline Emulator emulator;

inline void Emulator::begin() {
  try {
    emulator.kernel_();
  } catch (...) {
    emulator.error_ = std::current_exception();
  }
  emulator.current_->state = State::ended;
}

// Give every lane of the mask the values of all: a collective, as __shfl_sync is. Values of lanes that are
// not in the mask are 0xff bytes.
template <class T>
void exchange(unsigned mask, const T& mine, T (&all)[32], const char* what = "exchange",
              const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  static_assert(std::is_trivially_copyable<T>::value, "lanes exchange plain bytes");
  emulator.exchange({what, file, line}, mask, &mine, all, sizeof(T));
}

}  // namespace cuda_emulation
