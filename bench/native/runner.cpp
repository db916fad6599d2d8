// One ExecuTorch file behind the messages of bench/wire.py: `runner FILE THREADS [--sparse]`.
//
// Serves what bench/worker.py serves, and so whatever drives that can drive this: here, under an emulator,
// over ssh. One request more, `profile`. Every answer may be {"error": …} instead.
//
//     load + a sample's arrays  → load_ms, first_ms, version, memory_bytes
//     time {iterations}         → switches + arrays wall_ns, cpu_ns (int64, one entry per iteration)
//     infer + input arrays      → output arrays
//     profile {iterations}      → planned_bytes, threads + array etdump (uint8), for ExecuTorch's Inspector
//
// It ends when its standard input does. --sparse has XNNPACK use its sparse kernels (see the end).

#include <executorch/devtools/etdump/etdump_flatcc.h>
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <executorch/runtime/platform/runtime.h>

#include <dlfcn.h>
#include <sys/resource.h>

#include <cstring>
#include <ctime>
#include <memory>

#include "wire.h"

namespace executorch::extension::threadpool {
// threadpool.h needs pthreadpool.h, and the wheel ships neither; the library exports these.
class ThreadPool {
 public:
  size_t get_thread_count() const;
  bool _unsafe_reset_threadpool(uint32_t threads);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace {

using executorch::etdump::ETDumpGen;
using executorch::extension::Module;
using executorch::extension::threadpool::get_threadpool;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using wire::Array;
using wire::item;
using Values = std::vector<EValue>;

bool sparse = false;
int xnnpack_runtimes = 0;

int64_t nanoseconds(clockid_t clock) {
  timespec now;
  clock_gettime(clock, &now);
  return now.tv_sec * 1'000'000'000LL + now.tv_nsec;
}

/// How often the kernel took the CPU from this thread.
long switches() {
  rusage usage;
  getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_nivcsw;
}

/// VmHWM, the peak resident set. (ru_maxrss won't do: it is inherited across exec.)
long long peak_bytes() {
  long long kilobytes = 0;
  char line[256];
  std::FILE* status = std::fopen("/proc/self/status", "r");
  while (status && std::fgets(line, sizeof line, status)) {
    size_t at = std::strcspn(line, "0123456789");
    if (!std::strncmp(line, "VmHWM:", 6)) kilobytes = wire::number(line, at);
  }
  if (status) std::fclose(status);
  return kilobytes * 1024;
}

/// Brings VmHWM down to what is resident now (man proc_pid_clear_refs).
void reset_peak() {
  if (std::FILE* file = std::fopen("/proc/self/clear_refs", "w")) {
    std::fputs("5", file);
    std::fclose(file);
  }
}

void check(Error error, const char* what) {
  if (error != Error::Ok)
    throw std::runtime_error(std::string(what) + ": " + executorch::runtime::to_string(error));
}

/// Arrays as a method takes them: its values point at the tensors, and those at the bytes.
struct Inputs {
  std::vector<Array> arrays;
  std::vector<executorch::extension::TensorPtr> tensors;
  Values values;

  Inputs() = default;
  explicit Inputs(std::vector<Array> from) : arrays(std::move(from)) {
    for (Array& array : arrays) {
      const auto type = wire::type_of(array.code);
      tensors.push_back(executorch::extension::from_blob(array.bytes.data(), array.shape, type));
      values.emplace_back(tensors.back());
    }
  }
};

Array packed(const std::vector<int64_t>& numbers) {
  const char* data = reinterpret_cast<const char*>(numbers.data());
  return {"<i8", {static_cast<int>(numbers.size())}, {data, data + numbers.size() * sizeof(int64_t)}};
}

/// Fewer inputs than the file takes would go unnoticed: it would reuse those of its last run.
void expect(Module& module, const Inputs& inputs) {
  const size_t wanted = module.method_meta("forward")->num_inputs();
  if (wanted != inputs.values.size())
    throw std::runtime_error("the file takes " + std::to_string(wanted) + " inputs, not " +
                             std::to_string(inputs.values.size()));
}

Values run(Module& module, const Inputs& inputs) {
  auto outputs = module.forward(inputs.values);
  check(outputs.error(), "the inference failed");
  return std::move(*outputs);
}

class Session {
 public:
  explicit Session(const char* path) : path_(path) {}

  void answer(wire::Message& request) {
    const std::string name = wire::field(request.header, "request");
    if (name == "load") return load(request);
    if (!module_) throw std::runtime_error("nothing is loaded yet");
    if (name == "infer") return infer(request);
    size_t start = 0;
    const auto iterations = static_cast<int>(wire::number(wire::field(request.header, "iterations"), start));
    if (name == "time") return time(iterations);
    if (name == "profile") return profile(iterations);
    throw std::runtime_error("no such request: " + name);
  }

 private:
  void load(wire::Message& request) {
    module_.reset();  // two at once would count twice
    reset_peak();
    const long long before = peak_bytes();
    const int64_t started = nanoseconds(CLOCK_MONOTONIC);
    module_ = open(nullptr);
    const int64_t loaded = nanoseconds(CLOCK_MONOTONIC);
    sample_ = Inputs(std::move(request.arrays));
    expect(*module_, sample_);
    run(*module_, sample_);
    const int64_t first = nanoseconds(CLOCK_MONOTONIC);
    wire::send("\"version\": \"" EXECUTORCH_VERSION "\", " + item("load_ms", (loaded - started) / 1e6) +
               item("first_ms", (first - loaded) / 1e6) + item("memory_bytes", peak_bytes() - before));
  }

  void time(int iterations) {
    std::vector<int64_t> wall(iterations), cpu(iterations);
    const long before = switches();
    for (int index = 0; index < iterations; index++) {
      const int64_t wall_start = nanoseconds(CLOCK_MONOTONIC);
      const int64_t cpu_start = nanoseconds(CLOCK_THREAD_CPUTIME_ID);
      run(*module_, sample_);
      cpu[index] = nanoseconds(CLOCK_THREAD_CPUTIME_ID) - cpu_start;
      wall[index] = nanoseconds(CLOCK_MONOTONIC) - wall_start;
    }
    wire::send(item("switches", switches() - before), {packed(wall), packed(cpu)});
  }

  void infer(wire::Message& request) {
    const Inputs inputs(std::move(request.arrays));
    expect(*module_, inputs);
    std::vector<Array> outputs;
    for (const EValue& value : run(*module_, inputs)) {
      if (!value.isTensor()) throw std::runtime_error("an output is no tensor");
      const auto tensor = value.toTensor();
      const char* data = static_cast<const char*>(tensor.const_data_ptr());
      outputs.push_back({wire::code_of(tensor.scalar_type()),
                         {tensor.sizes().begin(), tensor.sizes().end()},
                         {data, data + tensor.nbytes()}});
    }
    wire::send("", outputs);
  }

  /// Traces a second load of the file: tracing takes time, which `time` must not see.
  void profile(int iterations) {
    auto owned = std::make_unique<ETDumpGen>();
    ETDumpGen& tracer = *owned;
    const auto traced = open(std::move(owned));
    for (int index = 0; index < iterations; index++) run(*traced, sample_);
    const auto dump = tracer.get_etdump_data();
    const char* data = static_cast<const char*>(dump.buf);
    const Array etdump{"|u1", {static_cast<int>(dump.size)}, {data, data + dump.size}};
    std::free(dump.buf);
    const auto meta = traced->method_meta("forward");
    long long planned = 0;
    for (size_t index = 0; index < meta->num_memory_planned_buffers(); index++)
      planned += meta->memory_planned_buffer_size(index).get();
    wire::send(item("planned_bytes", planned) + item("threads", get_threadpool()->get_thread_count()), {etdump});
  }

  std::unique_ptr<Module> open(std::unique_ptr<executorch::runtime::EventTracer> tracer) {
    xnnpack_runtimes = 0;
    auto module = std::make_unique<Module>(path_, Module::LoadMode::Mmap, std::move(tracer));
    check(module->load_forward(), "cannot load the file");
    if (sparse && xnnpack_runtimes == 0) throw std::runtime_error("--sparse: nothing here is XNNPACK's");
    return module;
  }

  const char* path_;
  std::unique_ptr<Module> module_;
  Inputs sample_;
};

}  // namespace

/// Stands in for the function of that name in ExecuTorch's library (an executable's symbols come first, System
/// V gABI, "Dynamic Linking"). The delegate passes no flags, and this hint is what lets XNNPACK use sparse
/// kernels for 1×1 convolutions and linear layers (xnnpack.h, XNN_FLAG_HINT_SPARSE_INFERENCE).
extern "C" int xnn_create_runtime_v4(void* subgraph, void* weights_cache, void* workspace, void* threadpool,
                                     uint32_t flags, void** runtime) {
  constexpr uint32_t kHintSparseInference = 1;
  using Create = int (*)(void*, void*, void*, void*, uint32_t, void**);
  static const auto create = reinterpret_cast<Create>(dlsym(RTLD_NEXT, "xnn_create_runtime_v4"));
  xnnpack_runtimes++;
  if (sparse) flags |= kHintSparseInference;
  return create(subgraph, weights_cache, workspace, threadpool, flags, runtime);
}

int main(int count, char** arguments) {
  if (count < 3) {
    std::fputs("usage: runner FILE THREADS [--sparse], with requests on standard input\n", stderr);
    return 2;
  }
  sparse = count > 3 && !std::strcmp(arguments[3], "--sparse");
  executorch::runtime::runtime_init();
  size_t start = 0;
  get_threadpool()->_unsafe_reset_threadpool(static_cast<uint32_t>(wire::number(arguments[2], start)));
  Session session(arguments[1]);
  wire::Message request;
  while (wire::receive(request)) {
    try {
      session.answer(request);
    } catch (const std::exception& error) {
      wire::send(std::string("\"error\": \"") + error.what() + "\", ");
    }
  }
  return 0;
}
