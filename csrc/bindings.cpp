// octavo._C: the operations, by device. Addresses come in as integers, so that nothing here knows torch.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>

#include "cpu/cpu.h"
#include "cpu/parallel.h"
#include "operations.h"

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
        const RotaryKvWrite a = {address(qkv[0]),
                                 address(qkv[1]),
                                 address(qkv[2]),
                                 strides[0],
                                 strides[1],
                                 strides[2],
                                 address<const float>(tables[0]),
                                 address<const int64_t>(tables[1]),
                                 address<const int64_t>(tables[2]),
                                 address(kv_cache[0]),
                                 address(kv_cache[1]),
                                 shape[0],
                                 shape[1],
                                 shape[2],
                                 shape[3],
                                 shape[4],
                                 shape[5]};
        const py::gil_scoped_release released;
        Device::rotary_kv_write(a, static_cast<DType>(dtype), stream);
    });
    m.def("paged_attention",
          [](Ints<4> tensors, Ints<3> batch, Ints<5> shape, Ints<3> tables, std::pair<float, int64_t> scores, int dtype, Stream stream) {
              const PagedAttention a = {address(tensors[0]),
                                        address(tensors[1]),
                                        address(tensors[2]),
                                        address(tensors[3]),
                                        address<const int32_t>(batch[0]),
                                        address<const int32_t>(batch[1]),
                                        address<const int32_t>(batch[2]),
                                        shape[0],
                                        shape[1],
                                        shape[2],
                                        shape[3],
                                        shape[4],
                                        tables[0],
                                        tables[1],
                                        tables[2],
                                        scores.first,
                                        scores.second};
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

}  // namespace

PYBIND11_MODULE(_C, m) {
    m.doc() = "Compiled kernels. octavo.ops is their interface.";
    define<Cpu>(m.def_submodule("cpu"));
    m.def("levels", &cpu::levels);
    m.def("level", &cpu::level);
    m.def("set_level", &cpu::set_level);
    m.def("set_threads", &cpu::set_threads);
}
