// SPDX-License-Identifier: BSD-3-Clause
// Threads: OpenMP where the compiler has it (torch's own pool, where torch was imported first), else
// std::thread. Not for files in cpu/isa/.
#pragma once
#include <atomic>
#include <cstdint>
#if defined(_OPENMP)
#include <omp.h>
#else
#include <thread>
#include <vector>
#endif

namespace unlearnkit {

// Calls work(task, thread) for every task in [0, tasks). Which thread takes which task is left open, so
// results must not depend on it: then they are the same for every number of threads. Nothing may throw.
template <typename Work>
void parallel_for(std::int64_t tasks, int threads, const Work& work) {
  if (threads > tasks) threads = static_cast<int>(tasks);
  if (threads <= 1) {
    for (std::int64_t task = 0; task < tasks; ++task) work(task, 0);
    return;
  }
#if defined(_OPENMP)
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (std::int64_t task = 0; task < tasks; ++task) work(task, omp_get_thread_num());
#else
  std::atomic<std::int64_t> next{0};
  const auto run = [&](int thread) {
    for (std::int64_t task; (task = next++) < tasks;) work(task, thread);
  };
  std::vector<std::thread> others;
  for (int thread = 1; thread < threads; ++thread) others.emplace_back(run, thread);
  run(0);
  for (auto& other : others) other.join();
#endif
}

}  // namespace unlearnkit
