using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using Native.Kernels.Cpu.Machine;
using Native.Kernels.Models;

namespace Native.Kernels.Cpu;

/// <summary>Causal attention over the paged cache: y[t] = softmax(cap(q[t] K^T * scale)) V, with the rotation of
/// queries and keys and the store of keys and values before it.</summary>
/// <remarks>
/// <para>Online softmax (Milakov and Gimelshein 2018, arXiv:1805.02867) over a paged cache (Kwon et al. 2023,
/// arXiv:2309.06180). A row's context is cut into segments of <see cref="SegmentSize"/> positions and those into tiles
/// of <see cref="TileSize"/>, both at fixed multiples. A tile costs one rescaling of a segment's sums, and the
/// segments' sums are folded in ascending order, so that several workers may share one row's context (as in
/// Flash-Decoding). What a row adds up, and in which order, follows from its own position alone: neither its companions
/// in the tile nor the block size nor the split over workers change a bit of it.</para>
/// <para>An item is a query tile with a key and value head, or some segments of these where there are too few for the
/// workers. Where each sequence's new rows are one query tile (a decode), an item stores those keys and values that it
/// will read itself, and nobody waits for anybody; else (a prompt's chunk) all are stored first. Few queries read the
/// cache itself, for which memory is the limit: judge it in GB/s. Many have the tile converted to floats once: judge it
/// in GFLOP/s.</para>
/// </remarks>
internal sealed unsafe class PagedAttention(WorkerPool pool, NativeHeap heap)
{
    /// <summary>Positions that share one rescaling of the running sums.</summary>
    public const int TileSize = 64;

    /// <summary>Positions whose sums are one partial result: some microseconds of work, and a multiple of
    /// <see cref="TileSize"/>.</summary>
    public const int SegmentSize = 256;

    // Floats of a row's sums of weights while they are by lane: those of the widest vector.
    internal const int SumLanes = 16;

    // Head sizes are padded with zeros, which add nothing to any sum, to two of the widest vectors.
    private const int Padding = 32;

    // Up to so many queries read the cache itself, in two passes from five on: 13.6 GB/s where eight with a converted
    // tile read 9.9.
    private const int CachedQueries = 8;

    // Rows of one head stored together: those of a block share its lines.
    private const int StoreGrain = 64;

    // Rows ahead of the one stored whose lines are asked for: a row's are pages apart, and no processor fetches those
    // by itself.
    private const int StoreAhead = 16;

    // Items a worker should have at least, so that none waits long for the last.
    private const int ItemsPerWorker = 8;

    // Partial results a step may have, 16 MiB; with more, rows are many and items too.
    private const long MaxPartialFloats = 4 << 20;

    // Positions times elements of heads below which a step is not worth another worker's wake.
    private const long SmallWork = 16 << 10;

    private float* _scratch;
    private long _scratchFloats;
    private float* _partials;
    private long _partialFloats;
    private int* _pending;
    private long _pendingInts;

    /// <summary>Rotates, stores and attends for all rows of the step; shapes have been checked.</summary>
    public void Run(CpuStep step, StepRotations rotations, Tensor qkv, AttentionShape shape, CpuKvLayer cache, Tensor y)
    {
        Job job = Prepare(step, rotations, qkv, shape, cache, y);
        if (!job.StoresInItems) pool.For(job.Stores, StoreGrain, &Store, &job);
        bool small = step.VisiblePositions * shape.Heads * shape.HeadSize < SmallWork;
        // In shares, so that a worker's next item is most often the one that it asks memory for.
        pool.ForShares(job.Items, small ? job.Items : 1, &Attend, &job);
    }

    /// <summary>What <see cref="Run"/> hands to its workers: first <see cref="Store"/> unless items store, then
    /// <see cref="Attend"/>.</summary>
    internal Job Prepare(CpuStep step, StepRotations rotations, Tensor qkv, AttentionShape shape,
        CpuKvLayer cache, Tensor y)
    {
        int padded = (shape.HeadSize + Padding - 1) / Padding * Padding, group = shape.Heads / shape.KvHeads;
        Job job = new()
        {
            Tiles = step.QueryTiles,
            Positions = step.Positions,
            Slots = step.SlotMapping,
            BlockTables = step.BlockTables,
            BlockTableStride = step.BlockTableStride,
            Rows = step.Tokens,
            Rotations = rotations.Cosines(0),
            Pairs = rotations.Pairs,
            Pairing = shape.Pairing,
            Qkv = (float*)qkv.Address,
            QkvStride = qkv.Columns,
            Y = (float*)y.Address,
            YStride = y.Columns,
            Heads = shape.Heads,
            KvHeads = shape.KvHeads,
            HeadSize = shape.HeadSize,
            HeadColumns = CpuKvLayer.HeadColumns(shape.HeadSize, cache.Keys.Type),
            Padded = padded,
            Group = group,
            Scale = shape.Scale,
            Window = shape.Window,
            SoftCap = shape.SoftCap,
            QueryNorm = (float*)shape.QueryNorm.Address,
            KeyNorm = (float*)shape.KeyNorm.Address,
            NormEpsilon = shape.NormEpsilon,
            Keys = cache.Keys,
            Values = cache.Values,
            BlockSize = cache.Shape.BlockSize,
            StoresInItems = step.TilesAreSequences,
            Parts = 1,
            PartSegments = int.MaxValue,
        };

        int tileHeads = step.QueryTileCount * shape.KvHeads, rows = 1, segments = 1;
        for (int t = 0; t < step.QueryTileCount; t++)
        {
            QueryTile tile = step.QueryTiles[t];
            rows = Math.Max(rows, tile.Rows);
            job.Context(tile, out int begin, out int end);
            segments = Math.Max(segments, ((end - 1) / SegmentSize) - (begin / SegmentSize) + 1);
        }
        job.MaxQueries = rows * group;
        job.PartialStride = job.MaxQueries * (padded + 2L);
        if (tileHeads < ItemsPerWorker * pool.Threads && pool.Threads > 1 && segments > 1
            && Vector128.IsHardwareAccelerated
            && tileHeads * segments * job.PartialStride <= MaxPartialFloats)
        {
            job.PartSegments = Math.Max(1, tileHeads * segments / (ItemsPerWorker * pool.Threads));
            job.Parts = (segments + job.PartSegments - 1) / job.PartSegments;
            job.Segments = segments;
            // With half as much to spare: contexts and batches grow by and by.
            long floats = tileHeads * segments * job.PartialStride;
            job.Partials = heap.Reserve(ref _partials, ref _partialFloats, floats, floats / 2);
            job.Pending = heap.Reserve(ref _pending, ref _pendingInts, tileHeads, tileHeads / 2);
            for (int i = 0; i < tileHeads; i++)
            {
                job.Context(step.QueryTiles[i / shape.KvHeads], out int begin, out int end);
                job.Pending[i] = (((end - 1) / SegmentSize) - (begin / SegmentSize) + job.PartSegments)
                    / job.PartSegments;
            }
        }
        job.Items = tileHeads * job.Parts;
        job.Stores = step.Tokens * shape.KvHeads;

        // Queries, a segment's sums and all segments' sums; a tile's keys and values, and their scales; logits; maxima
        // and sums of both.
        job.ScratchStride = (((3L * job.MaxQueries * padded) + (2 * TileSize * padded)
            + (2 * TileSize * CpuKvLayer.ScaleCount(padded)) + (4 * TileSize) + ((4L + SumLanes) * job.MaxQueries))
            + 15) & ~15;
        long scratch = job.ScratchStride * pool.Threads;
        job.Scratch = heap.Reserve(ref _scratch, ref _scratchFloats, scratch, scratch / 2);
        return job;
    }

    /// <summary>Normalizes and rotates keys, and stores keys and values, for items [first, last) of
    /// <see cref="Job.Stores"/>: rows of the first head, of the second and so on.</summary>
    internal static void Store(void* context, int first, int last, int worker)
    {
        Job* job = (Job*)context;
        for (int item = first; item < last; item++)
        {
            int row = item % job->Rows, kvHead = item / job->Rows;
            if (row + StoreAhead < job->Rows) FetchStore(job, row + StoreAhead, kvHead);
            StoreRow(job, row, kvHead, job->Scratch + (worker * job->ScratchStride));
        }
    }

    /// <summary>Asks for a later row's key and value, and for the lines that it writes: its value's, and its share of a
    /// block of keys, all of which the block's first row writes.</summary>
    private static void FetchStore(Job* job, int row, int kvHead)
    {
        if (!Sse.IsSupported) return;
        int d = job->HeadSize, bytes = job->HeadColumns * job->Keys.ElementSize;
        nint offset = (nint)((job->HeadIndex(job->Slots[row], kvHead) * job->Keys.ElementSize)
            + (job->Slots[row] % job->BlockSize * bytes));
        for (int i = 0; i < bytes; i += 64)
        {
            Sse.Prefetch0((byte*)job->Keys.Address + offset + i);
            Sse.Prefetch0((byte*)job->Values.Address + offset + i);
        }
        float* key = job->Qkv + (row * job->QkvStride) + ((long)(job->Heads + kvHead) * d),
            value = key + ((long)job->KvHeads * d);
        for (int i = 0; i < d; i += 16)
        {
            Sse.Prefetch0(key + i);
            Sse.Prefetch0(value + i);
        }
    }

    /// <summary>Computes items [first, last) of <see cref="Job.Items"/>.</summary>
    internal static void Attend(void* context, int first, int last, int worker)
    {
        for (int item = first; item < last; item++)
        {
            if (Vector512.IsHardwareAccelerated) Attend<Simd512, Vector512<float>>((Job*)context, item, worker);
            else if (Vector256.IsHardwareAccelerated) Attend<Simd256, Vector256<float>>((Job*)context, item, worker);
            else if (Vector128.IsHardwareAccelerated) Attend<Simd128, Vector128<float>>((Job*)context, item, worker);
            else AttendScalar((Job*)context, item, worker);
        }
    }

    /// <summary>The definition: the largest logit first, then weights and their sum. Not for items that are parts of a
    /// context.</summary>
    internal static void AttendScalar(Job* job, int item, int worker)
    {
        Debug.Assert(job->Parts == 1, "the definition knows no partial results");
        QueryTile tile = job->Tiles[item / job->KvHeads];
        int kvHead = item % job->KvHeads, d = job->HeadSize;
        float* scratch = job->Scratch + (worker * job->ScratchStride), query = scratch;
        if (job->StoresInItems)
        {
            for (int r = 0; r < tile.Rows; r++) StoreRow(job, tile.FirstRow + r, kvHead, scratch);
        }
        int* blockTable = job->BlockTables + ((long)tile.Sequence * job->BlockTableStride);
        for (int i = 0; i < tile.Rows * job->Group; i++)
        {
            int row = tile.FirstRow + (i / job->Group), head = (kvHead * job->Group) + (i % job->Group);
            LoadQuery(job, row, head, query);
            float* output = job->Y + (row * job->YStride) + ((long)head * d);
            int end = job->Positions[row] + 1, start = job->WindowStart(end - 1);

            double max = double.NegativeInfinity, sum = 0;
            for (int p = start; p < end; p++) max = Math.Max(max, Logit(job, query, blockTable, kvHead, p));
            for (int j = 0; j < d; j++) output[j] = 0;
            for (int p = start; p < end; p++)
            {
                double weight = Math.Exp(Logit(job, query, blockTable, kvHead, p) - max);
                sum += weight;
                long slot = job->Slot(blockTable, p);
                for (int j = 0; j < d; j++) output[j] += (float)(weight * Value(job, slot, kvHead, j));
            }
            for (int j = 0; j < d; j++) output[j] = (float)(output[j] / sum);
        }

        static double Logit(Job* job, float* query, int* blockTable, int kvHead, int p)
        {
            long slot = job->Slot(blockTable, p);
            double dot = 0;
            for (int j = 0; j < job->HeadSize; j++) dot += (double)query[j] * Key(job, slot, kvHead, j);
            double logit = dot * job->Scale;
            return job->SoftCap > 0 ? job->SoftCap * Math.Tanh(logit / job->SoftCap) : logit;
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void Attend<S, V>(Job* job, int item, int worker)
        where S : struct, ISimd<V>
        where V : struct
    {
        int tileHead = item / job->Parts, part = item % job->Parts, kvHead = tileHead % job->KvHeads;
        QueryTile tile = job->Tiles[tileHead / job->KvHeads];
        job->Context(tile, out int begin, out int end);
        if (job->Parts > 1)
        {
            long firstSegment = (begin / SegmentSize) + ((long)part * job->PartSegments);
            begin = (int)Math.Max(begin, firstSegment * SegmentSize);
            end = (int)Math.Min(end, (firstSegment + job->PartSegments) * SegmentSize);
            if (begin >= end) return;
        }

        int d = job->HeadSize, padded = job->Padded, count = tile.Rows * job->Group;
        float* scratch = job->Scratch + (worker * job->ScratchStride);
        float* queries = scratch;                             // [count, padded]
        // [count, padded], sums of weight * value of a segment so far
        float* segment = queries + ((long)count * padded);
        float* outputs = segment + ((long)count * padded);    // [count, padded], of all segments so far
        float* keys = outputs + ((long)count * padded);       // [padded, TileSize]
        float* values = keys + ((long)TileSize * padded);     // [TileSize, padded]
        int scales = CpuKvLayer.ScaleCount(d);
        float* keyScales = values + ((long)TileSize * padded); // [scales, TileSize]
        float* valueScales = keyScales + (scales * TileSize); // [scales, TileSize]
        float* logits = valueScales + (scales * TileSize);    // [4, TileSize], then weights
        float* segmentMaxima = logits + (4 * TileSize);       // [count]
        float* maxima = segmentMaxima + count;                // [count]
        float* sums = maxima + count;                         // [count], sums of weights
        float* segmentLanes = sums + count;                   // [count, SumLanes], of a segment so far, by lane
        float* segmentSums = segmentLanes + ((long)count * SumLanes); // [count]

        if (job->StoresInItems)
        {
            // Those that this item reads: with a context in parts, others store theirs.
            for (int row = tile.FirstRow; row < tile.FirstRow + tile.Rows; row++)
            {
                if (job->Positions[row] >= begin && job->Positions[row] < end) StoreRow(job, row, kvHead, logits);
            }
        }
        bool whole = job->BlockSize % KvTile.Group == 0 && d == padded, cached = whole && count <= CachedQueries;
        float scale = cached && job->Keys.Type == DType.F16
            ? job->Scale * AttentionKernels<S, V>.QueryScale<F16Element<S, V>>() : job->Scale;
        for (int i = 0; i < count; i++)
        {
            float* query = queries + ((long)i * padded);
            LoadQuery(job, tile.FirstRow + (i / job->Group), (kvHead * job->Group) + (i % job->Group), query);
            AttentionKernels<S, V>.Multiply(query, scale, query, d);
        }
        if (job->Parts == 1) Clear(count, padded, outputs, maxima, sums);
        if (cached && job->StoresInItems && job->Parts == 1 && item + 1 < job->Items) Fetch(job, item + 1);

        int* blockTable = job->BlockTables + ((long)tile.Sequence * job->BlockTableStride);
        int quads = (count + 3) / 4;
        KvTile current = default, next = default, converted = default;
        (converted.KeyStride, converted.ValueStride) = (TileSize * sizeof(float), padded * sizeof(float));
        for (int g = 0; g < TileSize / KvTile.Group; g++)
            (converted.Keys[g], converted.Values[g]) =
                ((long)(keys + (g * KvTile.Group)), (long)(values + ((long)g * KvTile.Group * padded)));
        next.KeyScales = keyScales;
        next.ValueScales = valueScales;
        if (whole)
            Locate(job, blockTable, kvHead, begin, Math.Min(end, (begin / TileSize * TileSize) + TileSize), &next);
        int* from = stackalloc int[4], to = stackalloc int[4];
        for (int start = begin / SegmentSize * SegmentSize; start < end; start += SegmentSize)
        {
            Clear(count, padded, segment, segmentMaxima, segmentSums);
            new Span<float>(segmentLanes, count * SumLanes).Clear();
            int segmentEnd = Math.Min(end, start + SegmentSize);
            for (int origin = Math.Max(start, begin / TileSize * TileSize); origin < segmentEnd; origin += TileSize)
            {
                int tileFrom = Math.Max(begin, origin), tileTo = Math.Min(end, origin + TileSize);
                if (whole)
                {
                    current = next;
                    if (job->Keys.Type == DType.Q8_0) WidenScales<S, V>(&current, scales);
                    if (origin + TileSize < end)
                        Locate(job, blockTable, kvHead, origin + TileSize,
                            Math.Min(end, origin + (2 * TileSize)), &next);
                }
                if (!cached)
                {
                    if (!whole) Gather(job, blockTable, kvHead, origin, tileFrom, tileTo, keys, values);
                    else if (job->Keys.Type == DType.F32)
                        AttentionKernels<S, V>.ConvertTile<F32Element<S, V>>(&current, &next, d, keys, values);
                    else if (job->Keys.Type == DType.F16)
                        AttentionKernels<S, V>.ConvertTile<F16Element<S, V>>(&current, &next, d, keys, values);
                    else if (job->Keys.Type == DType.BF16)
                        AttentionKernels<S, V>.ConvertTile<BF16Element<S, V>>(&current, &next, d, keys, values);
                    else AttentionKernels<S, V>.ConvertTile<Q8Element<S, V>>(&current, &next, d, keys, values);
                    current = converted;
                }
                for (int quad = 0; quad < quads; quad++)
                {
                    int first = count * quad / quads, n = (count * (quad + 1) / quads) - first;
                    for (int i = 0; i < n; i++)
                    {
                        int position = job->Positions[tile.FirstRow + ((first + i) / job->Group)];
                        from[i] = Math.Clamp(job->WindowStart(position) - origin, 0, TileSize);
                        to[i] = Math.Clamp(position + 1 - origin, 0, TileSize);
                    }
                    float* q = queries + ((long)first * padded), sum = segment + ((long)first * padded);
                    if (!cached)
                        AttentionKernels<S, V>.Attend<ScratchElement<S, V>>(q, n, d, &current, &current, from, to,
                            job->SoftCap, logits, segmentMaxima + first, segmentLanes + (first * SumLanes),
                            sum, padded);
                    else if (job->Keys.Type == DType.F32)
                        AttentionKernels<S, V>.Attend<F32Element<S, V>>(q, n, d, &current, &next, from, to,
                            job->SoftCap, logits, segmentMaxima + first, segmentLanes + (first * SumLanes),
                            sum, padded);
                    else if (job->Keys.Type == DType.F16)
                        AttentionKernels<S, V>.Attend<F16Element<S, V>>(q, n, d, &current, &next, from, to,
                            job->SoftCap, logits, segmentMaxima + first, segmentLanes + (first * SumLanes),
                            sum, padded);
                    else if (job->Keys.Type == DType.BF16)
                        AttentionKernels<S, V>.Attend<BF16Element<S, V>>(q, n, d, &current, &next, from, to,
                            job->SoftCap, logits, segmentMaxima + first, segmentLanes + (first * SumLanes),
                            sum, padded);
                    else
                        AttentionKernels<S, V>.Attend<Q8Element<S, V>>(q, n, d, &current, &next, from, to, job->SoftCap,
                            logits, segmentMaxima + first, segmentLanes + (first * SumLanes), sum, padded);
                }
            }
            for (int i = 0; i < count; i++) segmentSums[i] = SimdMath<S, V>.Sum(S.Load(segmentLanes + (i * SumLanes)));
            if (job->Parts == 1)
            {
                FoldSegment<S, V>(count, padded, segment, segmentMaxima, segmentSums, outputs, maxima, sums);
            }
            else
            {
                float* partial = job->Partial(tileHead, start / SegmentSize);
                long floats = (long)count * padded;
                Buffer.MemoryCopy(segment, partial, floats * sizeof(float), floats * sizeof(float));
                for (int i = 0; i < count; i++)
                    (partial[floats + i], partial[floats + count + i]) = (segmentMaxima[i], segmentSums[i]);
            }
        }

        if (job->Parts > 1)
        {
            // Who finishes a tile's last part folds them all, in the order of the context.
            if (Interlocked.Decrement(ref job->Pending[tileHead]) != 0) return;
            job->Context(tile, out begin, out end);
            Clear(count, padded, outputs, maxima, sums);
            for (int s = begin / SegmentSize; s <= (end - 1) / SegmentSize; s++)
            {
                float* partial = job->Partial(tileHead, s);
                float* partialMaxima = partial + ((long)count * padded);
                FoldSegment<S, V>(count, padded, partial, partialMaxima, partialMaxima + count, outputs, maxima, sums);
            }
        }
        for (int i = 0; i < count; i++)
        {
            int row = tile.FirstRow + (i / job->Group), head = (kvHead * job->Group) + (i % job->Group);
            AttentionKernels<S, V>.Multiply(outputs + ((long)i * padded), 1 / sums[i],
                job->Y + (row * job->YStride) + ((long)head * d), d);
        }
    }

    private static void Clear(int count, int padded, float* outputs, float* maxima, float* sums)
    {
        new Span<float>(outputs, count * padded).Clear();
        new Span<float>(maxima, count).Fill(float.NegativeInfinity);
        new Span<float>(sums, count).Clear();
    }

    private static void FoldSegment<S, V>(int count, int padded, float* segment, float* segmentMaxima,
        float* segmentSums, float* outputs, float* maxima, float* sums)
        where S : struct, ISimd<V>
        where V : struct
    {
        for (int i = 0; i < count; i++)
        {
            if (segmentSums[i] == 0) continue; // this row sees nothing of it; else the largest logit's weight is 1
            if (sums[i] == 0)
            {
                // The first that it sees: all that a fold would do is multiply by 1.
                Buffer.MemoryCopy(segment + ((long)i * padded), outputs + ((long)i * padded), padded * sizeof(float),
                    padded * sizeof(float));
                (maxima[i], sums[i]) = (segmentMaxima[i], segmentSums[i]);
                continue;
            }
            AttentionKernels<S, V>.Fold(segmentMaxima[i], segmentSums[i], segment + ((long)i * padded), ref maxima[i],
                ref sums[i], outputs + ((long)i * padded), padded);
        }
    }

    /// <summary>Addresses of positions [from, to) of a tile in the cache. Groups without any of them have a
    /// neighbour's: their lanes are masked.</summary>
    private static void Locate(Job* job, int* blockTable, int kvHead, int from, int to, KvTile* tile)
    {
        int size = job->Keys.ElementSize, origin = from / TileSize * TileSize;
        tile->KeyStride = job->BlockSize * size;
        tile->ValueStride = job->HeadSize * size;
        tile->ScaleStride = job->BlockSize * sizeof(ushort);
        for (int g = 0; g < TileSize / KvTile.Group; g++)
        {
            int position = Math.Clamp(origin + (g * KvTile.Group), from / KvTile.Group * KvTile.Group,
                (to - 1) / KvTile.Group * KvTile.Group);
            long slot = job->Slot(blockTable, position);
            tile->Keys[g] = job->Keys.Address + (nint)(job->KeyIndex(slot, kvHead) * size);
            tile->Values[g] = job->Values.Address + (nint)(job->ValueIndex(slot, kvHead) * size);
            if (job->Keys.Type != DType.Q8_0) continue;
            (tile->NarrowKeyScales[g], tile->NarrowValueScales[g]) =
                ((long)job->Scales(job->Keys, slot, kvHead), (long)job->Scales(job->Values, slot, kvHead));
            if (!Sse.IsSupported) continue;
            for (int i = 0; i < CpuKvLayer.ScaleCount(job->HeadSize); i++)
            {
                Sse.Prefetch0((byte*)tile->NarrowKeyScales[g] + (i * tile->ScaleStride));
                Sse.Prefetch0((byte*)tile->NarrowValueScales[g] + (i * tile->ScaleStride));
            }
        }
    }

    /// <summary>A tile's scales as floats, where its keys and values are about to be read.</summary>
    private static void WidenScales<S, V>(KvTile* tile, int count)
        where S : struct, ISimd<V>
        where V : struct
    {
        for (int i = 0; i < count; i++)
        {
            nint row = i * tile->ScaleStride;
            for (int lane = 0; lane < TileSize; lane += S.Count)
            {
                int group = lane / KvTile.Group, within = lane % KvTile.Group;
                S.Store(S.LoadBF16((ushort*)(tile->NarrowKeyScales[group] + row) + within),
                    tile->KeyScales + (i * TileSize) + lane);
                S.Store(S.LoadBF16((ushort*)(tile->NarrowValueScales[group] + row) + within),
                    tile->ValueScales + (i * TileSize) + lane);
            }
        }
    }

    /// <summary>Asks for the keys that an item begins with, and for the place of those it stores, while the item before
    /// it computes: with short contexts their way from memory is most of its time.</summary>
    private static void Fetch(Job* job, int item)
    {
        if (!Sse.IsSupported) return;
        QueryTile tile = job->Tiles[item / job->KvHeads];
        int kvHead = item % job->KvHeads, size = job->Keys.ElementSize,
            block = job->BlockSize * job->HeadColumns * size;
        int* blockTable = job->BlockTables + ((long)tile.Sequence * job->BlockTableStride);
        job->Context(tile, out int begin, out int end);
        int first = begin / job->BlockSize, last =
            (Math.Min(end, (begin / TileSize * TileSize) + TileSize) - 1) / job->BlockSize;
        for (int b = first; b <= last; b++) FetchKeys(blockTable[b] * (long)job->BlockSize);
        for (int row = tile.FirstRow; row < tile.FirstRow + tile.Rows; row++)
        {
            if (job->Positions[row] / job->BlockSize > last) FetchKeys(job->Slots[row]);
        }

        void FetchKeys(long slot)
        {
            byte* keys = (byte*)job->Keys.Address
                + (job->KeyIndex(slot / job->BlockSize * job->BlockSize, kvHead) * size);
            // A page at most: the item at hand needs the first-level cache too.
            for (int i = 0; i < Math.Min(block, 4096); i += 64) Sse.Prefetch0(keys + i);
        }
    }

    /// <summary>Converts positions [from, to) of a tile to floats in scratch, wherever blocks begin: [d, TileSize] and
    /// [TileSize, padded].</summary>
    private static void Gather(Job* job, int* blockTable, int kvHead, int origin, int from, int to, float* keys,
        float* values)
    {
        int d = job->HeadSize, padded = job->Padded;
        for (int p = from; p < to; p++)
        {
            long slot = job->Slot(blockTable, p);
            float* column = keys + p - origin, row = values + ((long)(p - origin) * padded);
            for (int j = 0; j < d; j++)
            {
                column[(long)j * TileSize] = Key(job, slot, kvHead, j);
                row[j] = Value(job, slot, kvHead, j);
            }
            new Span<float>(row + d, padded - d).Clear();
        }
    }

    /// <summary>A row's query of one head, normalized and rotated; d floats.</summary>
    private static void LoadQuery(Job* job, int row, int head, float* query)
    {
        float* source = job->Qkv + (row * job->QkvStride) + ((long)head * job->HeadSize);
        if (job->QueryNorm != null) Elementwise.RmsNorm(source, job->QueryNorm, job->NormEpsilon, query, job->HeadSize);
        else new ReadOnlySpan<float>(source, job->HeadSize).CopyTo(new Span<float>(query, job->HeadSize));
        Rope.Rotate(query, job->Cosines(row), job->Cosines(row) + job->Pairs, job->Pairs, job->Pairing);
    }

    /// <summary>Normalizes and rotates a row's key of one head, and stores it with its value in the cache's
    /// type.</summary>
    private static void StoreRow(Job* job, int row, int kvHead, float* scratch)
    {
        int d = job->HeadSize, blockSize = job->BlockSize;
        float* key = job->Qkv + (row * job->QkvStride) + ((long)(job->Heads + kvHead) * d),
            value = key + ((long)job->KvHeads * d);
        if (job->KeyNorm != null) Elementwise.RmsNorm(key, job->KeyNorm, job->NormEpsilon, key, d);
        Rope.Rotate(key, job->Cosines(row), job->Cosines(row) + job->Pairs, job->Pairs, job->Pairing);

        long slot = job->Slots[row], element = job->KeyIndex(slot, kvHead);
        if (job->Keys.Type == DType.F32)
        {
            float* target = (float*)job->Keys.Address + element;
            for (int j = 0; j < d; j++, target += blockSize) *target = key[j];
        }
        else if (job->Keys.Type == DType.Q8_0)
        {
            sbyte* target = (sbyte*)job->Keys.Address + element, narrow = (sbyte*)scratch,
                values = (sbyte*)job->Values.Address + job->ValueIndex(slot, kvHead);
            ushort* keyScale = job->Scales(job->Keys, slot, kvHead),
                valueScale = job->Scales(job->Values, slot, kvHead);
            for (int j = 0; j < d; j += CpuKvLayer.ScaleGroup, keyScale += blockSize, valueScale += blockSize)
            {
                int n = Math.Min(CpuKvLayer.ScaleGroup, d - j);
                *keyScale = Q8Block.Quantize(key + j, n, narrow);
                for (int i = 0; i < n; i++, target += blockSize) *target = narrow[i];
                *valueScale = Q8Block.Quantize(value + j, n, values + j);
            }
            return;
        }
        else
        {
            ushort* target = (ushort*)job->Keys.Address + element;
            ushort* narrow = (ushort*)scratch;
            Rope.Convert(key, new Tensor((nint)narrow, 1, d, job->Keys.Type), 0, d);
            for (int j = 0; j < d; j++, target += blockSize) *target = narrow[j];
        }
        Rope.Convert(value, job->Values, job->ValueIndex(slot, kvHead), d);
    }

    /// <summary>Element j of a slot's key, as vectors of any width read it.</summary>
    private static float Key(Job* job, long slot, int kvHead, int j) =>
        Element(job, job->Keys, slot, kvHead, j, job->KeyIndex(slot, kvHead) + ((long)j * job->BlockSize));

    /// <summary>Likewise of its value.</summary>
    private static float Value(Job* job, long slot, int kvHead, int j) =>
        Element(job, job->Values, slot, kvHead, j, job->ValueIndex(slot, kvHead) + j);

    private static float Element(Job* job, Tensor tensor, long slot, int kvHead, int j, long index) =>
        tensor.Type switch
    {
        DType.F32 => ((float*)tensor.Address)[index],
        DType.F16 => BitConverter.Int32BitsToSingle(
            (((short*)tensor.Address)[index] << 13) & unchecked((int)0x8fffe000)) * 5.192296858534828e33f,
        DType.BF16 => BitConverter.UInt32BitsToSingle((uint)((ushort*)tensor.Address)[index] << 16),
        _ => ((sbyte*)tensor.Address)[index]
            * Q8Block.Widen(job->Scales(tensor, slot, kvHead)[(long)(j / CpuKvLayer.ScaleGroup) * job->BlockSize]),
    };

    /// <summary>One call's operands and plan, for the workers.</summary>
    internal struct Job
    {
        public QueryTile* Tiles;
        public int* Positions;
        public int* Slots;
        public int* BlockTables;
        public int BlockTableStride;
        public int Rows;
        public float* Rotations;     // [Rows, 2, Pairs], cosines and sines
        public int Pairs;
        public RopePairing Pairing;
        public float* Qkv;
        public long QkvStride;
        public float* Y;
        public long YStride;
        public int Heads;
        public int KvHeads;
        public int HeadSize;
        public int HeadColumns;      // of the cache, scales included
        public int Padded;
        public int Group;            // query heads of a key head
        public float Scale;
        public int Window;
        public float SoftCap;
        public float* QueryNorm;     // null for none
        public float* KeyNorm;
        public float NormEpsilon;
        public Tensor Keys;
        public Tensor Values;
        public int BlockSize;

        public bool StoresInItems;
        public int Stores;           // items of Store
        public int Items;            // items of Attend: [tiles, KvHeads, Parts]
        public int Parts;            // into which contexts are cut
        public int PartSegments;     // segments a part has
        public int Segments;         // of the longest context
        public int MaxQueries;       // of an item
        public float* Partials;      // [tiles, KvHeads, Segments]: sums of weight * value, maxima, sums of weights
        public long PartialStride;
        public int* Pending;         // [tiles, KvHeads], parts not yet done
        public float* Scratch;       // one for each worker
        public long ScratchStride;

        /// <summary>Positions that any row of a tile sees.</summary>
        public readonly void Context(QueryTile tile, out int begin, out int end)
        {
            (begin, end) = (int.MaxValue, 0);
            for (int row = tile.FirstRow; row < tile.FirstRow + tile.Rows; row++)
            {
                begin = Math.Min(begin, WindowStart(Positions[row]));
                end = Math.Max(end, Positions[row] + 1);
            }
        }

        /// <summary>First position a row sees.</summary>
        public readonly int WindowStart(int position) => Window > 0 ? Math.Max(0, position - Window + 1) : 0;

        public readonly float* Cosines(int row) => Rotations + (2L * row * Pairs);

        /// <summary>A segment's partial results; segments are numbered from the context's beginning, whatever a window
        /// hides.</summary>
        public readonly float* Partial(int tileHead, int segment)
        {
            Context(Tiles[tileHead / KvHeads], out int begin, out _);
            return Partials + ((((long)tileHead * Segments) + segment - (begin / SegmentSize)) * PartialStride);
        }

        /// <summary>The slot of a sequence's position.</summary>
        public readonly long Slot(int* blockTable, int position) =>
            ((long)blockTable[position / BlockSize] * BlockSize) + (position % BlockSize);

        /// <summary>Index of the first element of a slot's key; the others follow at BlockSize.</summary>
        public readonly long KeyIndex(long slot, int kvHead) => HeadIndex(slot, kvHead) + (slot % BlockSize);

        /// <summary>Index of the first element of a slot's value.</summary>
        public readonly long ValueIndex(long slot, int kvHead) =>
            HeadIndex(slot, kvHead) + (slot % BlockSize * HeadSize);

        /// <summary>The first scale of a slot's key or value in a cache of <see cref="DType.Q8_0"/>; the others follow
        /// at BlockSize.</summary>
        public readonly ushort* Scales(Tensor tensor, long slot, int kvHead) =>
            (ushort*)((sbyte*)tensor.Address + HeadIndex(slot, kvHead) + ((long)HeadSize * BlockSize))
                + (slot % BlockSize);

        /// <summary>Index of a head's first element in a slot's block.</summary>
        public readonly long HeadIndex(long slot, int kvHead) =>
            ((slot / BlockSize * KvHeads) + kvHead) * HeadColumns * BlockSize;
    }
}
