#include "decode_attention.cuh"

template void octavo::cuda::launch_decode<256>(const DecodeArguments&, int, cudaStream_t);
