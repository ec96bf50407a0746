// octavo._C: the operations, by device. Addresses come in as integers, so that nothing here knows torch.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>

#include "cpu/cpu.h"
#include "cpu/parallel.h"
#include "operations.h"
#ifdef OCTAVO_CUDA
#include "cuda/cuda.h"
#include "cuda/step.h"
#endif

namespace py = pybind11;

namespace {

using namespace octavo;

template <size_t N>
using Ints = std::array<int64_t, N>;
using Stream = uintptr_t;

template <class T = void>
T* address(int64_t value) {
    return reinterpret_cast<T*>(value);
}

struct Cpu {
    static void rms_norm(const RmsNorm& a, DType dtype, Stream) { cpu::rms_norm(a, dtype); }
    static void rotary_kv_write(const RotaryKvWrite& a, DType dtype, Stream) { cpu::rotary_kv_write(a, dtype); }
    static void paged_attention(const PagedAttention& a, DType dtype, Stream) { cpu::paged_attention(a, dtype); }
    static void gated_activation(const GatedActivation& a, DType dtype, Stream) { cpu::gated_activation(a, dtype); }
    static void copy_blocks(const CopyBlocks& a, Stream) { cpu::copy_blocks(a); }
};

RotaryKvWrite rotary_of(const Ints<3>& qkv, const Ints<3>& strides, const Ints<3>& tables, const Ints<2>& kv_cache, const Ints<6>& shape) {
    RotaryKvWrite a = {};
    a.q = address(qkv[0]), a.k = address(qkv[1]), a.v = address(qkv[2]);
    a.q_stride = strides[0], a.k_stride = strides[1], a.v_stride = strides[2];
    a.cos_sin = address<const float>(tables[0]);
    a.positions = address<const int64_t>(tables[1]);
    a.slots = address<const int64_t>(tables[2]);
    a.keys = address(kv_cache[0]), a.values = address(kv_cache[1]);
    a.tokens = shape[0], a.q_heads = shape[1], a.kv_heads = shape[2], a.head_size = shape[3];
    a.num_positions = shape[4], a.num_blocks = shape[5];
    return a;
}

PagedAttention attention_of(const Ints<4>& tensors, const Ints<3>& batch, const Ints<5>& shape, const Ints<3>& tables,
                            const std::pair<float, int64_t>& scores) {
    PagedAttention a = {};
    a.out = address(tensors[0]), a.q = address(tensors[1]), a.keys = address(tensors[2]), a.values = address(tensors[3]);
    a.block_tables = address<const int32_t>(batch[0]);
    a.query_start = address<const int32_t>(batch[1]);
    a.context_lens = address<const int32_t>(batch[2]);
    a.tokens = shape[0], a.q_heads = shape[1], a.kv_heads = shape[2], a.head_size = shape[3], a.q_stride = shape[4];
    a.sequences = tables[0], a.table_blocks = tables[1], a.num_blocks = tables[2];
    a.scale = scores.first, a.window = scores.second;
    return a;
}

// The five operations of one kind of device, under the same names and with the same arguments.
template <class Device>
void define(py::module_ m) {
    m.def("rms_norm", [](Ints<4> tensors, Ints<3> shape, Ints<2> strides, float eps, int dtype, Stream stream) {
        const RmsNorm a = {address(tensors[0]),
                           address(tensors[1]),
                           address(tensors[2]),
                           address(tensors[3]),
                           shape[0],
                           shape[1],
                           shape[2],
                           strides[0],
                           strides[1],
                           eps};
        const py::gil_scoped_release released;
        Device::rms_norm(a, static_cast<DType>(dtype), stream);
    });
    m.def("rotary_kv_write", [](Ints<3> qkv, Ints<3> strides, Ints<3> tables, Ints<2> kv_cache, Ints<6> shape, int dtype, Stream stream) {
        const RotaryKvWrite a = rotary_of(qkv, strides, tables, kv_cache, shape);
        const py::gil_scoped_release released;
        Device::rotary_kv_write(a, static_cast<DType>(dtype), stream);
    });
    m.def("paged_attention",
          [](Ints<4> tensors, Ints<3> batch, Ints<5> shape, Ints<3> tables, std::pair<float, int64_t> scores, int dtype, Stream stream) {
              const PagedAttention a = attention_of(tensors, batch, shape, tables, scores);
              const py::gil_scoped_release released;
              Device::paged_attention(a, static_cast<DType>(dtype), stream);
          });
    m.def("gated_activation", [](Ints<2> tensors, Ints<2> shape, bool gelu_tanh, int dtype, Stream stream) {
        const GatedActivation a = {address(tensors[0]), address(tensors[1]), shape[0], shape[1], gelu_tanh};
        const py::gil_scoped_release released;
        Device::gated_activation(a, static_cast<DType>(dtype), stream);
    });
    m.def("copy_blocks", [](Ints<2> kv_cache, int64_t pairs, Ints<3> shape, Stream stream) {
        const CopyBlocks a = {address(kv_cache[0]),
                              address(kv_cache[1]),
                              address<const int64_t>(pairs),
                              address<const int64_t>(pairs) + shape[0],
                              shape[0],
                              shape[1],
                              shape[2]};
        const py::gil_scoped_release released;
        Device::copy_blocks(a, stream);
    });
}

#ifdef OCTAVO_CUDA

cudaStream_t queue(Stream stream) {
    return reinterpret_cast<cudaStream_t>(stream);
}

struct Cuda {
    static void rms_norm(const RmsNorm& a, DType dtype, Stream s) { cuda::rms_norm(a, dtype, queue(s)); }
    static void rotary_kv_write(const RotaryKvWrite& a, DType dtype, Stream s) { cuda::rotary_kv_write(a, dtype, queue(s)); }
    static void paged_attention(const PagedAttention& a, DType dtype, Stream s) { cuda::paged_attention(a, dtype, queue(s)); }
    static void gated_activation(const GatedActivation& a, DType dtype, Stream s) { cuda::gated_activation(a, dtype, queue(s)); }
    static void copy_blocks(const CopyBlocks& a, Stream s) { cuda::copy_blocks(a, queue(s)); }
};

cuda::Rows rows_of(const Ints<3>& tensors, const Ints<4>& shape) {
    return {address<int32_t>(tensors[0]),
            address<int32_t>(tensors[1]),
            address<int32_t>(tensors[2]),
            shape[0],
            shape[1],
            shape[2],
            int(shape[3])};
}

// What only a GPU has: the plan of its attention, and the permanent rows of requests.
void define_cuda(py::module_ m) {
    define<Cuda>(m);
    m.def("planned_attention", [](Ints<4> tensors, Ints<3> batch, Ints<5> shape, Ints<3> tables, std::pair<float, int64_t> scores,
                                  Ints<3> plan, int dtype, Stream stream) {
        PagedAttention a = attention_of(tensors, batch, shape, tables, scores);
        a.num_decodes = plan[0], a.plan = address(plan[1]), a.plan_sequences = plan[2];
        cuda::paged_attention(a, static_cast<DType>(dtype), queue(stream));
    });
    m.def("norm_rotary_kv_write", [](Ints<3> qkv, Ints<3> strides, Ints<3> tables, Ints<2> kv_cache, Ints<6> shape, Ints<2> norms,
                                     float eps, int dtype, Stream stream) {
        RotaryKvWrite a = rotary_of(qkv, strides, tables, kv_cache, shape);
        a.q_norm = address(norms[0]), a.k_norm = address(norms[1]), a.norm_eps = eps;
        cuda::rotary_kv_write(a, static_cast<DType>(dtype), queue(stream));
    });
    m.def("small_linear", [](Ints<4> tensors, Ints<4> shape, Stream stream) {
        cuda::small_linear(
            {address(tensors[0]), address(tensors[1]), address(tensors[2]), address(tensors[3]), shape[0], shape[1], shape[2], shape[3]},
            queue(stream));
    });
    m.def("attention_workspace_bytes", &cuda::attention_workspace_bytes);
    m.def("plan_attention", [](Ints<2> tensors, Ints<2> sequences, Ints<3> heads, int64_t window, Stream stream) {
        const AttentionPlan a = {
            address(tensors[0]), address<const int32_t>(tensors[1]), sequences[0], sequences[1], heads[0], heads[1], heads[2], window};
        cuda::plan_attention(a, queue(stream));
    });
    m.attr("ROW_PARAMETERS") = cuda::kParameters;
    m.attr("ROW_ENDERS") = cuda::kEnders;
    m.def("apply_step", [](Ints<3> rows, Ints<4> shape, int64_t step, std::pair<int, int> records, Stream stream) {
        cuda::apply_step(rows_of(rows, shape), address<const int32_t>(step), records.first, records.second, queue(stream));
    });
    m.def("gather_step",
          [](Ints<3> rows, Ints<4> shape, int64_t step, std::pair<int, int> sequences, Ints<6> batch, int64_t max_tokens, Stream stream) {
              const cuda::StepBatch b = {address<int64_t>(batch[0]),
                                         address<int64_t>(batch[1]),
                                         address<int64_t>(batch[2]),
                                         address<int32_t>(batch[3]),
                                         address<int32_t>(batch[4]),
                                         address<int32_t>(batch[5]),
                                         max_tokens};
              cuda::gather_step(rows_of(rows, shape), address<const int32_t>(step), sequences.first, sequences.second, b, queue(stream));
          });
    m.def("sample", [](Ints<3> rows, Ints<4> shape, Ints<4> tensors, std::pair<int, int> counts, Stream stream) {
        const cuda::Sample a = {address(tensors[0]),
                                address<const int32_t>(tensors[1]),
                                address<const int32_t>(tensors[2]),
                                address<int32_t>(tensors[3]),
                                counts.first,
                                counts.second};
        cuda::sample(rows_of(rows, shape), a, queue(stream));
    });
}

#endif

}  // namespace

PYBIND11_MODULE(_C, m) {
    m.doc() = "Compiled kernels. octavo.ops is their interface.";
    define<Cpu>(m.def_submodule("cpu"));
#ifdef OCTAVO_CUDA
    define_cuda(m.def_submodule("cuda"));
#endif
    m.def("levels", &cpu::levels);
    m.def("level", &cpu::level);
    m.def("set_level", &cpu::set_level);
    m.def("set_threads", &cpu::set_threads);
}
