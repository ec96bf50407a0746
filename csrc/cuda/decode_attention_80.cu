#include "decode_attention.cuh"

template void octavo::cuda::launch_decode<80>(const DecodeArguments&, int, cudaStream_t);
