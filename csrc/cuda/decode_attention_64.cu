#include "decode_attention.cuh"

template void octavo::cuda::launch_decode<64>(const DecodeArguments&, int, cudaStream_t);
