// What a CUDA build of PyTorch asks of the runtime and the driver while it compiles, answered as by a machine with one
// GPU. There is nothing behind it: whatever would allocate, copy or launch is an error (999, cudaErrorUnknown).
// benchmarks/no_gpu.py builds it, preloads it for the runtime's functions and puts it in the driver's place.

enum { OK = 0, UNKNOWN = 999, VERSION = 13000 };

// The runtime: device guards and stream look-ups.
int cudaGetDevice(int *device) { *device = 0; return OK; }
int cudaSetDevice(int device) { return device == 0 ? OK : UNKNOWN; }
int cudaGetDeviceCount(int *count) { *count = 1; return OK; }
int cudaGetLastError(void) { return OK; }
int cudaPeekAtLastError(void) { return OK; }
int cudaDriverGetVersion(int *version) { *version = VERSION; return OK; }
int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { *least = 0; *greatest = -5; return OK; }
int cudaStreamIsCapturing(void *stream, int *status) { (void)stream; *status = 0; return OK; }
int cudaMalloc(void **pointer, unsigned long size) { (void)size; *pointer = 0; return UNKNOWN; }
int cudaLaunchKernel(void) { return UNKNOWN; }

// The driver: what is looked up when a library is loaded.
int cuInit(unsigned flags) { (void)flags; return OK; }
int cuDriverGetVersion(int *version) { *version = VERSION; return OK; }
int cuDeviceGetCount(int *count) { *count = 1; return OK; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return OK; }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) {
  (void)device;
  *flags = 0;
  *active = 0;
  return OK;
}
int cuLaunchKernel(void) { return UNKNOWN; }
int cuModuleLoadData(void) { return UNKNOWN; }
int cuGetProcAddress_v2(void) { return UNKNOWN; }
