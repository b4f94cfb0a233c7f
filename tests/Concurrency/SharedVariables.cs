using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;

namespace Native.Tests.Concurrency;

/// <summary>Finds the fields through which threads meet: those that Volatile or Interlocked touch, and the plain ones
/// that they hand over.</summary>
internal static class SharedVariables
{
    /// <summary>Plain fields that an ordered one hands over. A name with [] is an array's elements.</summary>
    private static readonly HashSet<string> HandedOver =
        [
            "Cell.Item", "TokenStream.NextSignalled", "TokenLog._tokens", "TokenLog._logprobs",
            "SpscRing._items", "SeqLock._value", "News.Value",
            "CacheEvents._kinds", "CacheEvents._hashes", "CacheEvents._parents", "CacheEvents._hasParents",
            "CacheEvents._tokens", "CacheEvents._present", "CacheEvents._blockHasParents", "CacheEvents._blockHashes",
            "CacheEvents._blockParents", "CacheEvents._blockTokens",
        ];

    /// <summary>The fields, by their symbols as declared. An array among them stands for its elements, but for those of
    /// TokenLog.</summary>
    public static HashSet<ISymbol> Of(CSharpCompilation compilation, string[] files)
    {
        HashSet<ISymbol> found = new(SymbolEqualityComparer.Default);
        foreach (SyntaxTree tree in compilation.SyntaxTrees)
        {
            if (!files.Contains(Path.GetFileName(tree.FilePath))) continue;
            SemanticModel model = compilation.GetSemanticModel(tree);
            foreach (SyntaxNode node in tree.GetRoot().DescendantNodes())
            {
                if (node is InvocationExpressionSyntax call && IsAtomic(call)
                    && call.ArgumentList.Arguments is [{ RefKindKeyword.RawKind: (int)SyntaxKind.RefKeyword } first, ..]
                    && FieldOf(first.Expression, model) is { } field)
                    found.Add(field);
                if (node is VariableDeclaratorSyntax variable && model.GetDeclaredSymbol(variable) is IFieldSymbol plain
                    && HandedOver.Contains($"{plain.ContainingType.Name}.{plain.Name}"))
                    found.Add(plain);
            }
        }
        return found;
    }

    /// <summary>Whether it is a call of Volatile or Interlocked.</summary>
    public static bool IsAtomic(InvocationExpressionSyntax call) =>
        call.Expression is MemberAccessExpressionSyntax
        {
            Expression: IdentifierNameSyntax { Identifier.Text: "Volatile" or "Interlocked" }
        };

    /// <summary>The field that an expression is, or an element of; null for none.</summary>
    public static ISymbol? FieldOf(ExpressionSyntax expression, SemanticModel model)
    {
        if (expression is ElementAccessExpressionSyntax element) return FieldOf(element.Expression, model);
        ISymbol? symbol = model.GetSymbolInfo(expression).Symbol;
        if (symbol is ILocalSymbol { IsRef: true } local
            && local.DeclaringSyntaxReferences[0].GetSyntax() is VariableDeclaratorSyntax
            {
                Initializer.Value: RefExpressionSyntax { Expression: var source }
            })
            return FieldOf(source, model);
        return symbol is IFieldSymbol field ? field.OriginalDefinition : null;
    }
}
