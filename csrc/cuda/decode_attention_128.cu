#include "decode_attention.cuh"

template void octavo::cuda::launch_decode<128>(const DecodeArguments&, int, cudaStream_t);
