using System.Runtime.Intrinsics;

namespace Native.Kernels.Formats;

/// <summary>Finds the scales of the K formats' super-blocks that minimize the sum of squared differences between
/// decoded and original values.</summary>
/// <remarks>Three steps, none worse than plain rounding. First, candidate step widths for each sub-block, each followed
/// by a least-squares line through its quants (as ggml's reference does, there with weights). Second, the sub-blocks'
/// scales in their few bits; neighbours of the nearest are tried too. Third, the super-block's scales by least squares
/// over all 256 values, and the second step again. Sums have eight lanes on every machine, so that files are the same
/// wherever they are made.</remarks>
internal static class ScaleSearch
{
    private const int Values = 256, Lanes = 8, MaxSubBlocks = 16, Rounds = 3;

    /// <summary>x = Scale * s * q - Min * m, with q from 0 to <paramref name="levels"/>, s and m from 0 to
    /// <paramref name="maxScale"/>.</summary>
    /// <param name="x">256 values.</param>
    /// <param name="levels">The largest quant.</param>
    /// <param name="maxScale">The largest scale and minimum of a sub-block.</param>
    /// <param name="s">Receives each sub-block's scale; its length tells how many sub-blocks there are.</param>
    /// <param name="m">Receives each sub-block's minimum.</param>
    /// <param name="q">Receives 256 quants.</param>
    public static (Half Scale, Half Min) WithMinima(
        ReadOnlySpan<float> x, int levels, int maxScale, Span<byte> s, Span<byte> m, Span<byte> q)
    {
        int count = s.Length, size = Values / count;
        Span<float> scales = stackalloc float[MaxSubBlocks], mins = stackalloc float[MaxSubBlocks];
        float largestScale = 0, largestMin = 0;
        for (int i = 0; i < count; i++)
        {
            (scales[i], mins[i]) = Line(x.Slice(i * size, size), levels);
            largestScale = MathF.Max(largestScale, scales[i]);
            largestMin = MathF.Max(largestMin, mins[i]);
        }

        float d = Rounded(largestScale / maxScale), dmin = Rounded(largestMin / maxScale);
        Span<byte> trialS = stackalloc byte[MaxSubBlocks], trialM = stackalloc byte[MaxSubBlocks];
        (float bestD, float bestMin, float best) = (0, 0, float.PositiveInfinity);
        for (int round = 0; round < Rounds; round++)
        {
            float total = 0;
            double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;
            for (int i = 0; i < count; i++)
            {
                ReadOnlySpan<float> part = x.Slice(i * size, size);
                int nearS = Nearest(scales[i], d, 0, maxScale), nearM = Nearest(mins[i], dmin, 0, maxScale);
                float least = float.PositiveInfinity;
                for (int a = Math.Max(nearS - 1, 0); a <= Math.Min(nearS + 1, maxScale); a++)
                {
                    for (int b = Math.Max(nearM - 1, 0); b <= Math.Min(nearM + 1, maxScale); b++)
                    {
                        float error = Error(part, d * a, dmin * b, 0, levels);
                        if (error >= least) continue;
                        (least, trialS[i], trialM[i]) = (error, (byte)a, (byte)b);
                    }
                }
                total += least;

                Sums sums = Sums.Of(part, d * trialS[i], dmin * trialM[i], 0, levels);
                double sub = trialS[i], minimum = trialM[i];
                aa += sub * sub * sums.QQ;
                ab += sub * minimum * sums.Q;
                bb += minimum * minimum * size;
                ax += sub * sums.XQ;
                bx += minimum * sums.X;
            }
            if (total < best)
            {
                (bestD, bestMin, best) = (d, dmin, total);
                trialS[..count].CopyTo(s);
                trialM[..count].CopyTo(m);
            }
            // The d and dmin of least squares for these s, m and q: x = d a - dmin b.
            double determinant = aa * bb - ab * ab;
            if (determinant > 1e-9 * aa * bb)
                (d, dmin) = (Rounded((float)((ax * bb - bx * ab) / determinant)),
                    Rounded((float)((ax * ab - bx * aa) / determinant)));
            else if (aa > 0) d = Rounded((float)((ax + dmin * ab) / aa));
            if (!(d > 0) || !(dmin >= 0)) break;
        }
        for (int i = 0; i < count; i++)
        {
            float scale = bestD * s[i], offset = bestMin * m[i], inverse = scale > 0 ? 1 / scale : 0;
            for (int j = i * size; j < (i + 1) * size; j++)
                q[j] = (byte)Math.Clamp(MathF.Floor((x[j] + offset) * inverse + 0.5f), 0, levels);
        }
        return ((Half)bestD, (Half)bestMin);
    }

    /// <summary>x = Scale * s * q, with q from -<paramref name="levels"/> to <paramref name="levels"/> - 1, s from
    /// -<paramref name="maxScale"/> to <paramref name="maxScale"/> - 1.</summary>
    /// <param name="x">256 values.</param>
    /// <param name="levels">Half the number of quants.</param>
    /// <param name="maxScale">Half the number of a sub-block's scales.</param>
    /// <param name="s">Receives each of the sixteen sub-blocks' scale.</param>
    /// <param name="q">Receives 256 quants.</param>
    public static Half Symmetric(ReadOnlySpan<float> x, int levels, int maxScale, Span<sbyte> s, Span<sbyte> q)
    {
        int count = s.Length, size = Values / count;
        Span<float> scales = stackalloc float[MaxSubBlocks];
        for (int i = 0; i < count; i++) scales[i] = Slope(x.Slice(i * size, size), levels);

        // The scale of largest magnitude is met by the end that has one step more.
        float d = Rounded(Rounding.LargestMagnitude(scales[..count]) / -maxScale);
        Span<sbyte> trial = stackalloc sbyte[MaxSubBlocks];
        (float bestD, float best) = (0, float.PositiveInfinity);
        for (int round = 0; round < Rounds; round++)
        {
            float total = 0;
            double aa = 0, ax = 0;
            for (int i = 0; i < count; i++)
            {
                ReadOnlySpan<float> part = x.Slice(i * size, size);
                int near = Nearest(scales[i], d, -maxScale, maxScale - 1);
                float least = float.PositiveInfinity;
                for (int a = Math.Max(near - 1, -maxScale); a <= Math.Min(near + 1, maxScale - 1); a++)
                {
                    float error = Error(part, d * a, 0, -levels, levels - 1);
                    if (error < least) (least, trial[i]) = (error, (sbyte)a);
                }
                total += least;
                Sums sums = Sums.Of(part, d * trial[i], 0, -levels, levels - 1);
                aa += (double)trial[i] * trial[i] * sums.QQ;
                ax += trial[i] * (double)sums.XQ;
            }
            if (total < best)
            {
                (bestD, best) = (d, total);
                trial[..count].CopyTo(s);
            }
            if (aa == 0) break;
            d = Rounded((float)(ax / aa));
        }
        for (int i = 0; i < count; i++)
        {
            float scale = bestD * s[i], inverse = scale != 0 ? 1 / scale : 0;
            for (int j = i * size; j < (i + 1) * size; j++)
                q[j] = (sbyte)Math.Clamp(MathF.Floor(x[j] * inverse + 0.5f), -levels, levels - 1);
        }
        return (Half)bestD;
    }

    /// <summary>The best x = scale * q - min for one sub-block, min not negative.</summary>
    private static (float Scale, float Min) Line(ReadOnlySpan<float> x, int levels)
    {
        (float low, float high) = Rounding.Range(x);
        low = MathF.Min(low, 0);
        if (!(high > low)) return (0, -low);
        (float Scale, float Min) best = ((high - low) / levels, -low);
        float least = Error(x, best.Scale, best.Min, 0, levels);
        for (int i = 0; i <= 20; i++)
        {
            // From a step a quarter wider than the range asks for to one that cuts its ends off.
            Sums sums = Sums.Of(x, (high - low) / (levels * (0.8f + 0.02f * i) + 0.5f), -low, 0, levels);
            float determinant = x.Length * sums.QQ - sums.Q * sums.Q;
            if (!(determinant > 0)) continue;
            float scale = (x.Length * sums.XQ - sums.X * sums.Q) / determinant,
                min = (sums.Q * sums.XQ - sums.QQ * sums.X) / determinant;
            if (min < 0) (scale, min) = (sums.XQ / sums.QQ, 0);
            if (!(scale > 0)) continue;
            float error = Error(x, scale, min, 0, levels);
            if (error < least) (least, best) = (error, (scale, min));
        }
        return best;
    }

    /// <summary>The best x = scale * q for one sub-block.</summary>
    private static float Slope(ReadOnlySpan<float> x, int levels)
    {
        float largest = Rounding.LargestMagnitude(x);
        if (largest == 0) return 0;
        float best = largest / -levels, least = Error(x, best, 0, -levels, levels - 1);
        for (int i = -10; i <= 10; i++)
        {
            foreach (int sign in (ReadOnlySpan<int>)[-1, 1])
            {
                Sums sums = Sums.Of(x, sign * largest / (levels + 0.1f * i), 0, -levels, levels - 1);
                if (!(sums.QQ > 0)) continue;
                float scale = sums.XQ / sums.QQ, error = Error(x, scale, 0, -levels, levels - 1);
                if (error < least) (least, best) = (error, scale);
            }
        }
        return best;
    }

    private static int Nearest(float value, float step, int least, int most) =>
        step == 0 ? 0 : (int)Math.Clamp(MathF.Round(value / step), least, most);

    /// <summary>As it will be read back from the block.</summary>
    private static float Rounded(float value) => (float)(Half)Math.Clamp(value, -65504f, 65504f);

    /// <summary>The sum of squared differences between x and what it becomes: scale * q - min, q the nearest in
    /// range.</summary>
    private static float Error(ReadOnlySpan<float> x, float scale, float min, int least, int most)
    {
        float inverse = scale != 0 ? 1 / scale : 0;
        Vector256<float> sum = default;
        for (int j = 0; j < x.Length; j += Lanes)
        {
            Vector256<float> v = Vector256.Create(x.Slice(j, Lanes));
            Vector256<float> difference = Quants(v, inverse, min, least, most) * scale - Vector256.Create(min) - v;
            sum += difference * difference;
        }
        return Vector256.Sum(sum);
    }

    private static Vector256<float> Quants(Vector256<float> x, float inverse, float min, int least, int most) =>
        Vector256.Min(Vector256.Max(Vector256.Floor((x + Vector256.Create(min)) * inverse + Vector256.Create(0.5f)),
            Vector256.Create((float)least)), Vector256.Create((float)most));

    /// <summary>What least squares need to know of a sub-block's values x and quants q.</summary>
    private readonly record struct Sums(float X, float Q, float QQ, float XQ)
    {
        public static Sums Of(ReadOnlySpan<float> x, float scale, float min, int least, int most)
        {
            float inverse = scale != 0 ? 1 / scale : 0;
            Vector256<float> sx = default, sq = default, sqq = default, sxq = default;
            for (int j = 0; j < x.Length; j += Lanes)
            {
                Vector256<float> v = Vector256.Create(x.Slice(j, Lanes)), q = Quants(v, inverse, min, least, most);
                sx += v;
                sq += q;
                sqq += q * q;
                sxq += v * q;
            }
            return new Sums(Vector256.Sum(sx), Vector256.Sum(sq), Vector256.Sum(sqq), Vector256.Sum(sxq));
        }
    }
}
