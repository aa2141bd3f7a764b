// What a scattering transform does between its FFTs, in CUDA.
//
// Arrays are contiguous, the last axis fastest. Spectra of real arrays are half ones: n / 2 + 1 bins
// along the last axis, the others being conjugates of their mirror images.
//
// Every launch has the same form (cupy.py, `geometry`). Threads' x runs along the last axis of what
// is written, so that neighbours read and write neighbours; threads' y runs over rows, all the other
// axes as one. A block has at most 256 threads, as wide as one row needs, beyond 32 in multiples of
// 32, and of as many rows as remain. The grid covers the columns; rows go on in strides of the grid,
// whose y ends at 65535. There are fewer than 2^31 columns and rows; places in arrays are computed in
// 64 bits.
//
// One thread makes one number of the output, from beginning to end and in a fixed order: there are no
// atomics and nothing is shared, so that results depend neither on timing nor on what else is in the
// batch. These kernels wait for memory. Most read their input once and write their output once; but
// `fold` reads a spectrum for each filter, in its box, `average_rows` all rows for each that it keeps,
// `sums` is launched for each power and on its own partial sums, and `root_of_sum` reads fields again
// where squares leave the range, and moduli where components take several launches.
//
// The file needs no header, so that NVRTC compiles it as it is.

typedef long long Place;

template <class T>
struct __align__(2 * sizeof(T)) Complex {
    T re, im;
};

// --- where a thread is ---------------------------------------------------------------------

__device__ inline unsigned first_column() { return blockIdx.x * blockDim.x + threadIdx.x; }
__device__ inline unsigned columns_at_once() { return gridDim.x * blockDim.x; }
__device__ inline unsigned first_row() { return blockIdx.y * blockDim.y + threadIdx.y; }
__device__ inline unsigned rows_at_once() { return gridDim.y * blockDim.y; }

// --- numbers -------------------------------------------------------------------------------

__device__ inline float root(float x) { return sqrtf(x); }
__device__ inline double root(double x) { return sqrt(x); }
__device__ inline float size_of(float x) { return fabsf(x); }
__device__ inline double size_of(double x) { return fabs(x); }
__device__ inline int exponent(float x) { return ilogbf(x); }
__device__ inline int exponent(double x) { return ilogb(x); }
__device__ inline float scaled(float x, int exponent) { return scalbnf(x, exponent); }
__device__ inline double scaled(double x, int exponent) { return scalbn(x, exponent); }

// Sums of squares between these have lost no digit to the ends of the range.
__device__ inline bool in_range(float power) { return power > 1e-30f && power <= 3e38f; }
__device__ inline bool in_range(double power) { return power > 1e-290 && power <= 1e308; }

__device__ inline float times(float a, float b) { return a * b; }
__device__ inline double times(double a, double b) { return a * b; }

template <class T>
__device__ Complex<T> times(T weight, Complex<T> u) {
    return {weight * u.re, weight * u.im};
}

template <class T>
__device__ Complex<T> times(Complex<T> weight, Complex<T> u) {
    return {weight.re * u.re - weight.im * u.im, weight.re * u.im + weight.im * u.re};
}

template <class T>
__device__ void add(T& total, T value) {
    total += value;
}

template <class T>
__device__ void add(Complex<T>& total, Complex<T> value) {
    total.re += value.re;
    total.im += value.im;
}

// --- spectra -------------------------------------------------------------------------------

// Return bin (k0, k1) of a whole spectrum n0 x n1 of which half is stored.
template <class T>
__device__ Complex<T> bin(const Complex<T>* half, unsigned n0, unsigned n1, unsigned k0, unsigned k1) {
    const unsigned kept = n1 / 2 + 1;
    if (k1 < kept) return half[Place(k0) * kept + k1];
    const Complex<T> mirrored = half[Place(k0 == 0 ? 0 : n0 - k0) * kept + (n1 - k1)];
    return {mirrored.re, -mirrored.im};
}

// Return the first entry of a cyclic run of bins, from `start` on, that folds to bin k of m.
__device__ inline unsigned first_alias(unsigned k, unsigned start, unsigned m) {
    return (k + m - start % m) % m;
}

__device__ inline unsigned wrapped(unsigned k, unsigned n) { return k < n ? k : k - n; }

// --- padding -------------------------------------------------------------------------------

// Return which of n samples padded sample k is, by whole-sample reflection repeated at will.
__device__ inline unsigned reflected(unsigned k, unsigned before, unsigned n) {
    const unsigned period = n > 1 ? 2 * (n - 1) : 1;
    Place j = Place(k % period) + period - before % period;  // may be beyond 32 bits
    if (j >= period) j -= period;
    return j < n ? j : period - j;
}

// Extend images n0 x n1 to p0 x columns; signals are images of one row. A thread writes a sample.
template <class T>
__global__ void reflect(
    const T* x, unsigned n0, unsigned n1, unsigned before0, unsigned before1,
    T* padded, unsigned p0, unsigned columns, unsigned rows) {
    for (unsigned row = first_row(); row < rows; row += rows_at_once()) {
        const Place image = row / p0;
        const T* line = x + (image * n0 + reflected(row % p0, before0, n0)) * n1;
        for (unsigned k = first_column(); k < columns; k += columns_at_once())
            padded[Place(row) * columns + k] = line[reflected(k, before1, n1)];
    }
}

// --- wavelets of signals and images --------------------------------------------------------

// A real filter inside one cyclic box of the frequency grid; `weights` is where its values begin.
struct Box {
    Place start0, start1, width0, width1, weights;
};

// Multiply spectra n0 x n1 by filters and fold the products to m0 x columns bins, the spectrum of
// what is left after decimation. A thread makes one bin of one product: it goes through those bins of
// the filter's box, every m-th along each axis, that fold to its own. Where there are none it writes
// zero, so that z needs no clearing.
//
// Rows are (spectrum, filter, row of bins).
template <class T>
__global__ void fold(
    const Complex<T>* spectra, unsigned n0, unsigned n1,
    const Box* boxes, const T* weights, unsigned filters,
    Complex<T>* z, unsigned m0, unsigned columns, unsigned rows) {
    const unsigned m1 = columns;
    for (unsigned row = first_row(); row < rows; row += rows_at_once()) {
        const unsigned k0 = row % m0, product = row / m0;
        const Box box = boxes[product % filters];
        const unsigned start0 = box.start0, start1 = box.start1;
        const unsigned width0 = box.width0, width1 = box.width1;
        const Complex<T>* spectrum = spectra + Place(product / filters) * n0 * (n1 / 2 + 1);
        for (unsigned k1 = first_column(); k1 < columns; k1 += columns_at_once()) {
            Complex<T> total = {0, 0};
            for (unsigned i = first_alias(k0, start0, m0); i < width0; i += m0) {
                const unsigned bin0 = wrapped(start0 + i, n0);
                const T* line = weights + box.weights + Place(i) * width1;
                for (unsigned j = first_alias(k1, start1, m1); j < width1; j += m1)
                    add(total, times(line[j], bin(spectrum, n0, n1, bin0, wrapped(start1 + j, n1))));
            }
            z[Place(row) * columns + k1] = total;
        }
    }
}

// Return a modulus; squares that leave the range are taken of numbers at size one.
template <class T>
__device__ T length_of(Complex<T> value) {
    const T power = value.re * value.re + value.im * value.im;
    if (in_range(power) || power != power) return root(power);  // a NaN stays one
    const T re = size_of(value.re), im = size_of(value.im);
    const T peak = re > im ? re : im;
    if (!(peak > 0 && peak - peak == 0)) return peak;  // zero or infinite
    const int e = exponent(peak);
    const T a = scaled(re, -e), b = scaled(im, -e);
    return scaled(root(a * a + b * b), e);
}

// Take moduli. A thread takes one.
template <class T>
__global__ void modulus(const Complex<T>* z, T* u, unsigned columns, unsigned rows) {
    for (unsigned row = first_row(); row < rows; row += rows_at_once())
        for (unsigned k = first_column(); k < columns; k += columns_at_once())
            u[Place(row) * columns + k] = length_of(z[Place(row) * columns + k]);
}

// --- wavelets along log-frequency ----------------------------------------------------------
//
// Rows go first here, (row, batch, time) and (row, filter, batch, time): FFTs and filters run along
// rows, and threads side by side have times side by side.

__device__ inline Complex<float> widened(float x) { return {x, 0}; }
__device__ inline Complex<double> widened(double x) { return {x, 0}; }

template <class T>
__device__ Complex<T> widened(Complex<T> u) {
    return u;
}

// Put the rows of `piece`, (batch, there, columns) and real or complex, first, and zeros below them.
// A thread writes one sample. Rows are (row, batch).
template <class T, class U>
__global__ void stack(
    const U* piece, unsigned there, unsigned batch,
    Complex<T>* y, unsigned columns, unsigned rows) {
    for (unsigned row = first_row(); row < rows; row += rows_at_once()) {
        const unsigned r = row / batch;
        const U* line = piece + (Place(row % batch) * there + r) * columns;
        for (unsigned t = first_column(); t < columns; t += columns_at_once()) {
            Complex<T> value = {0, 0};
            if (r < there) value = widened(line[t]);
            y[Place(row) * columns + t] = value;
        }
    }
}

// As `fold`, along the first axis: multiply spectra of n bins by filters and fold them to fewer. All
// threads of a row read the same weights. Rows are (bin, filter), columns (batch, time).
template <class T>
__global__ void fold_rows(
    const Complex<T>* spectra, unsigned n,
    const Box* boxes, const T* weights, unsigned filters,
    Complex<T>* z, unsigned m, unsigned columns, unsigned rows) {
    for (unsigned row = first_row(); row < rows; row += rows_at_once()) {
        const Box box = boxes[row % filters];
        const unsigned start = box.start1, width = box.width1;
        const unsigned first = first_alias(row / filters, start, m);
        for (unsigned c = first_column(); c < columns; c += columns_at_once()) {
            Complex<T> total = {0, 0};
            for (unsigned i = first; i < width; i += m) {
                const Place place = Place(wrapped(start + i, n)) * columns + c;
                add(total, times(weights[box.weights + i], spectra[place]));
            }
            z[Place(row) * columns + c] = total;
        }
    }
}

// Take moduli of the first `kept` rows. A thread takes one. Rows are (batch, filter, kept row).
template <class T>
__global__ void keep_rows(
    const Complex<T>* z, unsigned filters, unsigned batch, unsigned kept,
    T* out, unsigned columns, unsigned rows) {
    for (unsigned row = first_row(); row < rows; row += rows_at_once()) {
        const unsigned r = row % kept, f = row / kept % filters, b = row / kept / filters;
        const Complex<T>* line = z + ((Place(r) * filters + f) * batch + b) * columns;
        for (unsigned t = first_column(); t < columns; t += columns_at_once())
            out[Place(row) * columns + t] = length_of(line[t]);
    }
}

__device__ inline float length_of(float x) { return x; }
__device__ inline double length_of(double x) { return x; }

// Multiply moduli of m rows by a matrix (kept, m) along them; U is complex where these are still to
// be taken. A thread makes one number, from all rows in their order. Rows are as above.
template <class T, class U>
__global__ void average_rows(
    const U* values, unsigned m, unsigned filters, unsigned batch,
    const T* matrix, unsigned kept, T* out, unsigned columns, unsigned rows) {
    for (unsigned row = first_row(); row < rows; row += rows_at_once()) {
        const unsigned f = row / kept % filters, b = row / kept / filters;
        const T* weights = matrix + Place(row % kept) * m;
        const U* line = values + (Place(f) * batch + b) * columns;
        const Place step = Place(filters) * batch * columns;  // from one row to the next
        for (unsigned t = first_column(); t < columns; t += columns_at_once()) {
            T total = 0;
            for (unsigned r = 0; r < m; ++r) total += weights[r] * length_of(line[r * step + t]);
            out[Place(row) * columns + t] = total;
        }
    }
}

// --- averages ------------------------------------------------------------------------------

// Multiply half spectra n0 x n1 by a separable, even low-pass and fold them to half spectra of
// m0 x m1 bins. `factor0` and `factor1` hold the filter on bins 0 ... reach along each axis. A thread
// makes one bin, as in `fold`: the bins -reach ... reach are a run that begins at -reach, or one
// later where both ends are the same bin.
template <class T>
__global__ void lowpass(
    const Complex<T>* spectra, unsigned n0, unsigned n1,
    const T* factor0, unsigned reach0, const T* factor1, unsigned reach1,
    Complex<T>* out, unsigned m0, unsigned m1, unsigned columns, unsigned rows) {
    const unsigned below0 = 2 * reach0 == n0 && n0 > 1 ? reach0 - 1 : reach0;
    const unsigned below1 = 2 * reach1 == n1 && n1 > 1 ? reach1 - 1 : reach1;
    const unsigned start0 = wrapped(n0 - below0, n0), start1 = wrapped(n1 - below1, n1);
    for (unsigned row = first_row(); row < rows; row += rows_at_once()) {
        const unsigned k0 = row % m0;
        const Complex<T>* spectrum = spectra + Place(row / m0) * n0 * (n1 / 2 + 1);
        for (unsigned k1 = first_column(); k1 < columns; k1 += columns_at_once()) {
            Complex<T> total = {0, 0};
            for (unsigned i = first_alias(k0, start0, m0); i <= below0 + reach0; i += m0) {
                const unsigned bin0 = wrapped(start0 + i, n0);
                const T weight = factor0[i < below0 ? below0 - i : i - below0];
                for (unsigned j = first_alias(k1, start1, m1); j <= below1 + reach1; j += m1) {
                    const T other = factor1[j < below1 ? below1 - j : j - below1];
                    const unsigned bin1 = wrapped(start1 + j, n1);
                    add(total, times(weight * other, bin(spectrum, n0, n1, bin0, bin1)));
                }
            }
            out[Place(row) * columns + k1] = total;
        }
    }
}

// Multiply half spectra of volumes, nz x ny x columns, by a separable filter.
template <class T>
__global__ void smooth(
    const Complex<T>* spectra, const T* factor_z, const T* factor_y, const T* factor_x,
    Complex<T>* out, unsigned nz, unsigned ny, unsigned columns, unsigned rows) {
    for (unsigned row = first_row(); row < rows; row += rows_at_once()) {
        const T weight = factor_z[row / ny % nz] * factor_y[row % ny];
        for (unsigned x = first_column(); x < columns; x += columns_at_once()) {
            const Place place = Place(row) * columns + x;
            out[place] = times(weight * factor_x[x], spectra[place]);
        }
    }
}

// Add up every columns-th value of each row, raised to a power, in double precision. A thread has one
// such sum. Launched again on what it gave, with fewer columns each time, until one is left: the order
// depends on the row's length only.
template <class T>
__global__ void sums(
    const T* values, Place length, double power, double* out, unsigned columns, unsigned rows) {
    for (unsigned row = first_row(); row < rows; row += rows_at_once())
        for (unsigned k = first_column(); k < columns; k += columns_at_once()) {
            const T* line = values + row * length;
            double total = 0;
            for (Place i = k; i < length; i += columns) {
                const double value = line[i];
                total += power == 1.0   ? value
                         : power == 2.0 ? value * value
                         : power == 0.5 ? sqrt(value)
                                        : pow(value, power);
            }
            out[Place(row) * columns + k] = total;
        }
}

// --- solid harmonics on volumes ------------------------------------------------------------

// A volume nz x ny x nx, and the box of bins that filters touch: along each axis `low` bins from zero
// on and the remaining ones up to the end. Fields that are real need half of the x axis only.
struct Volume {
    Place nz, ny, nx, box_z, box_y, box_x, low_x;
};

// Return where bin k of n lies in a box, or `box` where it does not.
__device__ inline unsigned place_in(unsigned k, unsigned n, unsigned box, unsigned low) {
    if (k < low) return k;
    const unsigned high = box - low;
    return k >= n - high ? k - (n - box) : box;
}

// Return bin (kz, ky, kx) of the whole spectrum of a real volume, of which half is stored.
template <class T>
__device__ Complex<T> bin(
    const Complex<T>* half, const Volume& v, unsigned kz, unsigned ky, unsigned kx) {
    const unsigned kept = v.nx / 2 + 1;
    if (kx < kept) return half[(kz * v.ny + ky) * kept + kx];
    const Place mirrored_z = kz == 0 ? 0 : v.nz - kz, mirrored_y = ky == 0 ? 0 : v.ny - ky;
    const Complex<T> mirrored = half[(mirrored_z * v.ny + mirrored_y) * kept + (v.nx - kx)];
    return {mirrored.re, -mirrored.im};
}

// Multiply by (-i)^turns, which makes the fields of real harmonics real.
template <class T>
__device__ Complex<T> turned(Complex<T> u, unsigned turns) {
    switch (turns % 4) {
        case 1: return {u.im, -u.re};
        case 2: return {-u.re, -u.im};
        case 3: return {-u.im, u.re};
        default: return u;
    }
}

// Multiply spectra of volumes by components of filters. `weigh` is a component's weight on a bin of
// the box, real or complex. A thread makes one bin of one product, zero outside the box. Rows are
// (volume, component, z, y).
template <class T, class Weigh>
__device__ void filter_volumes(
    const Complex<T>* spectra, const Volume& v, Weigh weigh,
    unsigned first, unsigned components, unsigned turns,
    Complex<T>* out, unsigned columns, unsigned rows) {
    const unsigned ny = v.ny, nz = v.nz;
    for (unsigned row = first_row(); row < rows; row += rows_at_once()) {
        const unsigned ky = row % ny, kz = row / ny % nz, product = row / ny / nz;
        const unsigned component = first + product % components;
        const unsigned y = place_in(ky, ny, v.box_y, (v.box_y + 1) / 2);
        const unsigned z = place_in(kz, nz, v.box_z, (v.box_z + 1) / 2);
        const Complex<T>* spectrum = spectra + product / components * v.nz * v.ny * (v.nx / 2 + 1);
        for (unsigned kx = first_column(); kx < columns; kx += columns_at_once()) {
            const unsigned x = place_in(kx, columns, v.box_x, v.low_x);
            Complex<T> value = {0, 0};
            if (z < v.box_z && y < v.box_y && x < v.box_x)
                value = turned(times(weigh(component, z, y, x), bin(spectrum, v, kz, ky, kx)), turns);
            out[Place(row) * columns + kx] = value;
        }
    }
}

// Multiply by the filters of one degree and scale, each a sum of products of a column along z and a
// plane (y, x): component c has the terms ends[c] ... ends[c + 1] - 1, and term t has column which[t]
// and a plane of its own. W is real or complex.
template <class T, class W>
__global__ void harmonics(
    const Complex<T>* spectra, const Volume* volume, const T* profiles, const W* planes,
    const int* ends, const int* which, unsigned first, unsigned components, unsigned turns,
    Complex<T>* out, unsigned columns, unsigned rows) {
    const Volume v = *volume;
    const auto weigh = [=](unsigned component, unsigned z, unsigned y, unsigned x) {
        W weight = {};
        for (int t = ends[component]; t < ends[component + 1]; ++t) {
            W plane = planes[(t * v.box_y + y) * v.box_x + x];
            add(weight, times(profiles[which[t] * v.box_z + z], plane));
        }
        return weight;
    };
    filter_volumes(spectra, v, weigh, first, components, turns, out, columns, rows);
}

// The same with filters that are stored bin by bin, (components, box_z, box_y, box_x).
template <class T, class W>
__global__ void stored_harmonics(
    const Complex<T>* spectra, const Volume* volume, const W* weights,
    unsigned first, unsigned components, unsigned turns,
    Complex<T>* out, unsigned columns, unsigned rows) {
    const Volume v = *volume;
    const auto weigh = [=](unsigned component, unsigned z, unsigned y, unsigned x) {
        return weights[((component * v.box_z + z) * v.box_y + y) * v.box_x + x];
    };
    filter_volumes(spectra, v, weigh, first, components, turns, out, columns, rows);
}

template <class T>
__device__ void add_square(T& total, T value) {
    total += value * value;
}

template <class T>
__device__ void add_square(T& total, Complex<T> value) {
    total += value.re * value.re;
    total += value.im * value.im;
}

template <class T>
__device__ T size_of(Complex<T> value) {
    const T re = size_of(value.re), im = size_of(value.im);
    return re > im ? re : im;
}

template <class T>
__device__ Complex<T> scaled(Complex<T> value, int exponent) {
    return {scaled(value.re, exponent), scaled(value.im, exponent)};
}

// Take the root of the sum over m of squared fields, (volume, component, line, columns), of which U is
// real or complex. Where there are more components than fields in flight, a later launch goes on from
// the moduli of the one before. A thread has one voxel; sums that leave the range are taken again of
// numbers at size one.
template <class T, class U>
__global__ void root_of_sum(
    const U* fields, unsigned components, unsigned lines, unsigned goes_on,
    T* moduli, unsigned columns, unsigned rows) {
    const Place step = Place(lines) * columns;  // from one component to the next
    for (unsigned row = first_row(); row < rows; row += rows_at_once())
        for (unsigned x = first_column(); x < columns; x += columns_at_once()) {
            const Place line = Place(row / lines) * components * lines + row % lines;
            const U* values = fields + line * columns + x;
            const T before = goes_on ? moduli[Place(row) * columns + x] : T(0);
            T power = before * before;
            for (unsigned c = 0; c < components; ++c) add_square(power, values[c * step]);
            T length = root(power);
            if (!in_range(power) && power == power) {
                T peak = before;
                for (unsigned c = 0; c < components; ++c) {
                    const T size = size_of(values[c * step]);
                    if (size > peak) peak = size;
                }
                length = peak;
                if (peak > 0 && peak - peak == 0) {
                    const int e = exponent(peak);
                    power = scaled(before, -e) * scaled(before, -e);
                    for (unsigned c = 0; c < components; ++c)
                        add_square(power, scaled(values[c * step], -e));
                    length = scaled(root(power), e);
                }
            }
            moduli[Place(row) * columns + x] = length;
        }
}
