# Octavo's two images: `--target control` has the operator and the gateway and no torch, `--target engine` serves a model.
#
#   DEVICE=cpu|cuda    for which the engine is built
#   TORCH_INDEX=URL    a package index with PyTorch's wheels; with its index of CPU wheels the engine image is a third as large.
#                      Without it torch comes from the default index with CUDA's libraries, and for DEVICE=cpu those
#                      that nothing needs on a CPU are left out.
#   BASE=IMAGE         anything with a python3 of version 3.11 or newer, venv and apt
#
# What seldom changes comes first: dependencies are a layer made from a list of versions, csrc/ is compiled apart from
# the Python code, so that a change of that code alone makes the last small layer new and nothing else.
ARG BASE=python:3.11-slim

FROM ${BASE} AS uv
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt UV_SYSTEM_CERTS=1
RUN python3 -m venv /uv && /uv/bin/pip install --quiet --no-cache-dir --disable-pip-version-check uv

# The versions that pyproject.toml and constraints.txt come to, for each image.
FROM uv AS versions
ARG DEVICE=cpu
ARG TORCH_INDEX=
ENV UV_INDEX=${TORCH_INDEX} UV_INDEX_STRATEGY=unsafe-best-match
COPY pyproject.toml constraints.txt /src/
WORKDIR /src
RUN compile() { /uv/bin/uv pip compile --quiet --no-cache --no-header --no-annotate --constraint constraints.txt pyproject.toml "$@"; } \
    && mkdir /versions \
    && compile --extra operator --extra gateway >/versions/control.txt \
    && compile --extra engine >/versions/engine.txt \
    && if [ "$DEVICE" = cpu ]; then \
         sed -i -E '/^(triton|cuda-[a-z]+|nvidia-(cuda-cccl|cusolver|nvtx))==/d' /versions/engine.txt; \
       fi

# One pure wheel serves both images.
FROM uv AS wheel
COPY constraints.txt /src/
RUN /uv/bin/uv pip install --quiet --no-cache --python /uv/bin/python --constraint /src/constraints.txt scikit-build-core
COPY pyproject.toml README.md LICENSE /src/
COPY api /src/api
COPY engine /src/engine
COPY gateway /src/gateway
COPY operator /src/operator
RUN OCTAVO_PURE=1 /uv/bin/uv build --quiet --wheel --no-build-isolation --python /uv/bin/python --out-dir /wheel /src \
    && /uv/bin/uv venv --quiet --python python3 /opt/octavo \
    && /uv/bin/uv pip install --quiet --no-cache --no-deps --compile-bytecode --python /opt/octavo/bin/python /wheel/*.whl

FROM ${BASE} AS control-dependencies
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt UV_SYSTEM_CERTS=1
COPY --from=versions /versions/control.txt /versions/control.txt
# The thousand modules of kubernetes' types are loaded one by one, by name: compiled they would take 50 MB, mostly for nothing.
RUN python3 -m venv /uv && /uv/bin/pip install --quiet --no-cache-dir --disable-pip-version-check uv \
    && /uv/bin/uv venv --quiet --python python3 /opt/octavo \
    && /uv/bin/uv pip install --quiet --no-cache --no-deps --python /opt/octavo/bin/python --requirements /versions/control.txt \
    && /opt/octavo/bin/python -m compileall -q -j 0 -x '/kubernetes/(aio/)?client/(api|models)/.' /opt/octavo/lib \
    && rm -rf /uv

FROM control-dependencies AS control
ENV PATH=/opt/octavo/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN echo 'octavo:x:65532:65532::/tmp:/usr/sbin/nologin' >>/etc/passwd
COPY --from=wheel /opt/octavo /opt/octavo
USER 65532:65532
ENTRYPOINT ["octavo"]

FROM uv AS compiler
ARG DEVICE=cpu
# python3-dev: the headers, where python3 is Debian's own
RUN apt-get update -q && apt-get install -y -q --no-install-recommends g++ python3-dev && rm -rf /var/lib/apt/lists/*
COPY constraints.txt /src/
RUN /uv/bin/uv pip install --quiet --no-cache --python /uv/bin/python --constraint /src/constraints.txt cmake ninja pybind11 \
    && if [ "$DEVICE" = cuda ]; then \
         /uv/bin/uv pip install --quiet --no-cache --python /uv/bin/python "cuda-toolkit[nvcc,nvvm,crt,cccl,cudart]$(sed -n s/^cuda-toolkit//p /src/constraints.txt)" \
         && cd /uv/lib/python3*/site-packages/nvidia/cu13 && ln -s lib lib64; \
       fi

FROM compiler AS kernels
ARG DEVICE=cpu
ENV PATH=/uv/bin:$PATH
COPY csrc /src/csrc
RUN if [ "$DEVICE" = cuda ]; then export CUDACXX="$(echo /uv/lib/python3*/site-packages/nvidia/cu13/bin/nvcc)"; fi \
    && cmake -S /src/csrc -B /build -G Ninja -DCMAKE_BUILD_TYPE=Release -DPython_EXECUTABLE=/uv/bin/python -Dpybind11_DIR="$(pybind11-config --cmakedir)" \
    && cmake --build /build && cmake --install /build --prefix /kernels --strip

FROM wheel AS engine-package
COPY --from=kernels /kernels/octavo/ /kernels/
RUN cp /kernels/_C.* /opt/octavo/lib/python3*/site-packages/octavo/

FROM ${BASE} AS engine-dependencies
ARG DEVICE=cpu
ARG TORCH_INDEX=
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt UV_SYSTEM_CERTS=1 UV_INDEX=${TORCH_INDEX} UV_INDEX_STRATEGY=unsafe-best-match
COPY --from=versions /versions/engine.txt /versions/engine.txt
# Of CUDA's libraries, those stay without which torch cannot be imported.
RUN python3 -m venv /uv && /uv/bin/pip install --quiet --no-cache-dir --disable-pip-version-check uv \
    && /uv/bin/uv venv --quiet --python python3 /opt/octavo \
    && /uv/bin/uv pip install --quiet --no-cache --no-deps --compile-bytecode --python /opt/octavo/bin/python --requirements /versions/engine.txt \
    && cd /opt/octavo/lib/python3*/site-packages && rm -rf torch/include torch/bin/protoc* \
    && if [ "$DEVICE" = cpu ] && [ -d nvidia ]; then \
         rm -rf nvidia/*/include nvidia/cudnn/lib/libcudnn_* nvidia/nccl/lib/*.bc nvidia/nvshmem/lib/nvshmem_* \
         && cd nvidia/cu13/lib && rm -f libnvperf* libnvblas* libcufftw* libcheckpoint* libpcsampling* \
         && rm -f *.a ../../nvshmem/lib/*.a ../../nvshmem/lib/*.bc; \
       fi \
    && rm -rf /uv

FROM engine-dependencies AS engine
ENV PATH=/opt/octavo/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 OCTAVO_CACHE=/cache HOME=/tmp
RUN echo 'octavo:x:65532:65532::/tmp:/usr/sbin/nologin' >>/etc/passwd && install -d -o 65532 -g 65532 /cache
COPY --from=engine-package /opt/octavo /opt/octavo
USER 65532:65532
ENTRYPOINT ["octavo"]
